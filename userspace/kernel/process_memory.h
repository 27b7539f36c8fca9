// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "model/page_set.h"

namespace mose {

// Reads another process' memory, without stopping it.
class ProcessMemory {
 public:
  [[nodiscard]] static Result<ProcessMemory> open(pid_t pid);

  // The pages of `runs` one behind the other into `out` (4096 bytes each). Pages that cannot be read (unmapped meanwhile,
  // guard) are all zero in `out` and added to `unreadable`. ESRCH when the process has no memory any more.
  [[nodiscard]] Status read(std::span<const PageRun> runs, std::span<std::byte> out,
                            std::vector<uint64_t>& unreadable) const;

 private:
  ProcessMemory(pid_t pid, Fd mem) : pid_(pid), mem_(std::move(mem)) {}
  pid_t pid_ = 0;
  Fd mem_;  // for regions without read permission, which process_vm_readv refuses
};

}  // namespace mose
