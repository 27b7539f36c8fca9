// SPDX-License-Identifier: MIT
#include "restore/tree_process.h"

#include <string>
#include <vector>

namespace mose::restore {

Result<ProcessHandle> process_of_space(const Cgroup& tree, SpaceId space) {
  MOSE_ASSIGN(std::vector<pid_t> pids, tree.procs());
  ProcessHandle found;
  for (pid_t pid : pids) {
    auto process = ProcessHandle::open(pid);
    if (!process) continue;
    auto number = virtual_pid(*process);
    if (!number || static_cast<SpaceId>(*number) != space) continue;
    if (found.valid()) return fail("two processes have the id " + std::to_string(space));
    found = std::move(*process);
  }
  if (!found.valid()) return fail("no process has the id " + std::to_string(space));
  return found;
}

}  // namespace mose::restore
