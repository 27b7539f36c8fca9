// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose {

// A file of memory without a place in any directory, as memfd_create() makes it (`name` stands in /proc/PID/fd as
// "/NAME"), on a tmpfs of its own that uses huge pages: the system's setting for shared memory, usually "never", does
// not count there. Memory is taken in pieces of 2 MiB then, in a tenth of the time. An error where this kernel or these
// rights have no such tmpfs: memfd_create() does then.
[[nodiscard]] Result<Fd> huge_memory_file(const char* name);

// Takes memory for a file of memory. The kernel clears a huge page of one at a stretch, and one that prefers throughput lets nobody else
// on that processor meanwhile: where the host of a virtual machine backs memory when it is first used, 6 ms (one in a tenth of a
// millisecond elsewhere), and the services beside it wait. Such memory is used first as a process's own, which the kernel clears page
// by page, and given back just before the file takes it. That is clearing it twice, so it is done only where memory is fresh: at the
// beginning, and for a while behind each piece that took so long.
class MemoryTaker {
 public:
  MemoryTaker() = default;
  ~MemoryTaker();
  MemoryTaker(const MemoryTaker&) = delete;
  MemoryTaker& operator=(const MemoryTaker&) = delete;

  // For [at, at + bytes) of `file`, which is mapped from its beginning at `data`. ENOMEM, ENOSPC: there is not so much.
  [[nodiscard]] Status take(int file, std::byte* data, uint64_t at, uint64_t bytes);

 private:
  static constexpr unsigned kWaryFirst = 8;
  void use_first();
  [[nodiscard]] bool fresh(Timestamp start);

  std::byte* own_ = nullptr;  // a huge page of its own; none where it cannot have one
  bool refused_ = false;
  unsigned wary_ = kWaryFirst;  // so many pieces are used first
  unsigned in_vain_ = 0;        // those in turn that took the file long though they were used first
};

}  // namespace mose
