// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/clock.h"
#include "kernel/mapping_flags.h"
#include "kernel/process.h"

// What CRIU is told of the mappings of a frozen tree, in place of smaps (mapping_table.h).
namespace mose::restore {

struct MappedProcess {
  pid_t pid = 0;
  std::vector<MappingWords> mappings;  // in the order of addresses, as /proc/PID/maps has them
};
// Those of the tree whose resident memory makes it worth it, as far as `bound` allows. One whose flags cannot be told is left
// out: CRIU reads its smaps.
[[nodiscard]] std::vector<MappedProcess> mapped_processes(const MappingFlags& flags, const std::vector<ProcessHandle>& tree,
                                                          Nanoseconds bound);
// As bytes.
[[nodiscard]] std::string mapping_table(const std::vector<MappedProcess>& processes);

}  // namespace mose::restore
