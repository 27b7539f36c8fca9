// SPDX-License-Identifier: MIT
#include "restore/added_memory.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

namespace mose::restore {

Result<std::optional<AddedMemory>> AddedMemory::add(StoppedTree& tree, pid_t process, size_t bytes) {
  MOSE_ASSIGN(int64_t at, tree.call(process, SYS_mmap, {0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~uint64_t{0}, 0}));
  if (at < 0) return std::nullopt;
  return AddedMemory(tree, process, static_cast<uint64_t>(at), bytes);
}

Status AddedMemory::write(uint64_t offset, std::span<const std::byte> contents) const {
  const iovec from{const_cast<std::byte*>(contents.data()), contents.size()};
  const iovec to{reinterpret_cast<void*>(address_ + offset), contents.size()};
  if (::process_vm_writev(process_, &from, 1, &to, 1, 0) == static_cast<ssize_t>(contents.size())) return {};
  return fail_errno("write what is added to the standby");
}

Result<bool> AddedMemory::make_executable(size_t bytes) const {
  MOSE_ASSIGN(int64_t changed, tree_->call(process_, SYS_mprotect, {address_, bytes, PROT_READ | PROT_EXEC}));
  return changed == 0;
}

Status AddedMemory::remove() const {
  MOSE_ASSIGN(int64_t unmapped, tree_->call(process_, SYS_munmap, {address_, bytes_}));
  return unmapped == 0 ? Status{} : Status(fail_errno("unmap what was added to the standby", static_cast<int>(-unmapped)));
}

}  // namespace mose::restore
