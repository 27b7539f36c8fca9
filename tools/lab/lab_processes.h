// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/state.h"

// Who runs in a lab, by its control groups: for what is measured of processes from outside. A number is good for a look
// at /proc at once, not for a signal.
namespace mose::lab {

struct LabProcess {
  pid_t pid = 0;       // of our pid namespace
  std::string name;    // as in /proc/PID/comm
  std::string cgroup;  // absolute
};

// All processes of a node, its workloads' included. One that ends meanwhile is left out.
[[nodiscard]] Result<std::vector<LabProcess>> node_processes(const LabState& state, const std::string& node);

// The Redis server in a group below that node's, or below that group; absent when there is not exactly one.
[[nodiscard]] std::optional<pid_t> find_redis(const LabState& state, const std::string& node, const std::string& cgroup);

}  // namespace mose::lab
