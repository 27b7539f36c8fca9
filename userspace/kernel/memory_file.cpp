// SPDX-License-Identifier: MIT
#include "kernel/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <algorithm>
#include <chrono>

#include "base/clock.h"
#include "model/page_set.h"

namespace mose {
namespace {

constexpr uint64_t kHugeBytes = kTablePages * kPageSize;
// Memory that has been used takes a third of a millisecond at most for as much.
constexpr auto kFresh = std::chrono::milliseconds(1);
// So many pieces behind one that did, 512 MiB: what is free lies together by when it was last used.
constexpr unsigned kWary = 256;
// So many pieces in turn that took long though: the file gets other memory, as where processes have no huge pages of their own.
constexpr unsigned kInVainMax = 8;

}  // namespace

// The mount is attached nowhere and lives as long as the file is open.
Result<Fd> huge_memory_file(const char* name) {
  Fd filesystem(::fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!filesystem) return fail_errno("fsopen tmpfs");
  // No bound of its own: a memfd has none either.
  for (auto [key, value] : {std::pair{"huge", "always"}, {"size", "0"}, {"mode", "0700"}}) {
    if (::fsconfig(filesystem.get(), FSCONFIG_SET_STRING, key, value, 0) != 0)
      return fail_errno("tmpfs with huge pages");
  }
  if (::fsconfig(filesystem.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return fail_errno("create a tmpfs");
  Fd mount(::fsmount(filesystem.get(), FSMOUNT_CLOEXEC, 0));
  if (!mount) return fail_errno("fsmount");
  Fd file(::openat(mount.get(), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file) return fail_errno("a file of memory");
  return file;
}

MemoryTaker::~MemoryTaker() {
  if (own_ != nullptr) ::munmap(own_, 2 * kHugeBytes);
}

void MemoryTaker::use_first() {
  if (own_ == nullptr && !refused_) {
    // Twice as much, for the whole one that is in it.
    void* at = ::mmap(nullptr, 2 * kHugeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at != MAP_FAILED) own_ = static_cast<std::byte*>(at);
    refused_ = own_ == nullptr || ::madvise(own_, 2 * kHugeBytes, MADV_HUGEPAGE) != 0;
  }
  if (refused_) return;
  const uint64_t address = reinterpret_cast<uintptr_t>(own_);
  std::byte* huge = own_ + ((address + kHugeBytes - 1) / kHugeBytes * kHugeBytes - address);
  const Timestamp start = now();
  const bool populated = ::madvise(huge, kHugeBytes, MADV_POPULATE_WRITE) == 0;
  // In part, too, where memory is short.
  refused_ = ::madvise(huge, kHugeBytes, MADV_DONTNEED) != 0 || !populated;
  (void)fresh(start);
}

// A piece that nobody had used, as it seems by its time: others will follow. A busy processor looks the same, and costs no more than
// clearing some memory twice.
bool MemoryTaker::fresh(Timestamp start) {
  if (now() - start < kFresh) return false;
  wary_ = kWary;
  return true;
}

Status MemoryTaker::take(int file, std::byte* data, uint64_t at, uint64_t bytes) {
  for (const uint64_t end = at + bytes; at < end;) {
    const uint64_t piece = std::min(end - at, kHugeBytes);
    const bool first = !refused_ && wary_ != 0;
    if (first) {
      --wary_;
      use_first();
    }
    const Timestamp start = now();
    // Allocating first makes a lack of memory an error here instead of a SIGBUS later, and populating 15 % cheaper.
    if (::fallocate(file, 0, static_cast<off_t>(at), static_cast<off_t>(piece)) != 0 ||
        ::madvise(data + at, piece, MADV_POPULATE_WRITE) != 0) {
      return fail_errno("take memory for a file");
    }
    const bool took_long = fresh(start);
    in_vain_ = first && took_long ? in_vain_ + 1 : 0;
    refused_ = refused_ || in_vain_ >= kInVainMax;
    at += piece;
  }
  return {};
}

}  // namespace mose
