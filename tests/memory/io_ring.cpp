// SPDX-License-Identifier: MIT
#include "io_ring.h"

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace mose::test {

bool IoRing::open(void* fixed, size_t bytes) {
  close();
  io_uring_params params{};
  ring_ = static_cast<int>(syscall(SYS_io_uring_setup, 1, &params));
  if (ring_ < 0) return false;
  // Since 5.4 one mapping has both rings.
  rings_bytes_ = std::max(params.sq_off.array + params.sq_entries * sizeof(uint32_t),
                          params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
  entries_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
  void* rings =
      mmap(nullptr, rings_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_, IORING_OFF_SQ_RING);
  void* entries =
      mmap(nullptr, entries_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring_, IORING_OFF_SQES);
  rings_ = rings == MAP_FAILED ? nullptr : rings;
  entries_ = entries == MAP_FAILED ? nullptr : static_cast<io_uring_sqe*>(entries);
  if (rings_ == nullptr || entries_ == nullptr) return false;
  auto at = [&](uint32_t offset) { return reinterpret_cast<uint32_t*>(static_cast<char*>(rings_) + offset); };
  sq_tail_ = at(params.sq_off.tail);
  sq_mask_ = at(params.sq_off.ring_mask);
  sq_array_ = at(params.sq_off.array);
  cq_head_ = at(params.cq_off.head);
  cq_tail_ = at(params.cq_off.tail);
  cq_mask_ = at(params.cq_off.ring_mask);
  completions_ = reinterpret_cast<io_uring_cqe*>(at(params.cq_off.cqes));
  fixed_ = fixed != nullptr;
  iovec buffer{fixed, bytes};
  return !fixed_ || syscall(SYS_io_uring_register, ring_, IORING_REGISTER_BUFFERS, &buffer, 1) == 0;
}

void IoRing::close() {
  if (rings_ != nullptr) munmap(rings_, rings_bytes_);
  if (entries_ != nullptr) munmap(entries_, entries_bytes_);
  if (ring_ >= 0) ::close(ring_);
  rings_ = nullptr;
  entries_ = nullptr;
  ring_ = -1;
}

int IoRing::read(int file, void* to, uint32_t bytes, uint64_t offset) {
  const uint32_t tail = *sq_tail_, slot = tail & *sq_mask_;
  io_uring_sqe& entry = entries_[slot];
  memset(&entry, 0, sizeof entry);
  entry.opcode = fixed_ ? IORING_OP_READ_FIXED : IORING_OP_READ;
  entry.fd = file;
  entry.addr = reinterpret_cast<uintptr_t>(to);
  entry.len = bytes;
  entry.off = offset;
  sq_array_[slot] = slot;
  std::atomic_ref(*sq_tail_).store(tail + 1, std::memory_order_release);
  unsigned submit = 1;
  for (;;) {
    const uint32_t head = *cq_head_;
    if (head != std::atomic_ref(*cq_tail_).load(std::memory_order_acquire)) {
      const int result = completions_[head & *cq_mask_].res;
      std::atomic_ref(*cq_head_).store(head + 1, std::memory_order_release);
      return result;
    }
    long done = syscall(SYS_io_uring_enter, ring_, submit, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
    if (done > 0) submit = 0;
    if (done < 0 && errno != EINTR && errno != EAGAIN && errno != EBUSY) return -errno;
  }
}

}  // namespace mose::test
