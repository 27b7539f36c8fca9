// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "model/dirty_source.h"
#include "model/page_set.h"

namespace mose {

// Reads another process' memory, without stopping it.
class ProcessMemory {
 public:
  [[nodiscard]] static Result<ProcessMemory> open(pid_t pid);
  // The process's own memory, or the object that it stands for.
  [[nodiscard]] static Result<ProcessMemory> open(const SpaceProcess& process);

  // The pages of `runs` one behind the other into `out` (4096 bytes each). Pages that cannot be read (unmapped meanwhile,
  // guard) are all zero in `out` and added to `unreadable`. ESRCH when the process has no memory any more.
  [[nodiscard]] Status read(std::span<const PageRun> runs, std::span<std::byte> out,
                            std::vector<uint64_t>& unreadable) const;

 private:
  ProcessMemory(pid_t pid, Fd mem) : pid_(pid), mem_(std::move(mem)) {}
  [[nodiscard]] Status read_object(std::span<const PageRun> runs, std::span<std::byte> out) const;
  pid_t pid_ = 0;  // 0: of a shared object
  Fd mem_;         // for regions without read permission, which process_vm_readv refuses; or the object
};

}  // namespace mose
