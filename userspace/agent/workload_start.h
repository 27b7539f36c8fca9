// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "agent/config.h"
#include "agent/refusal.h"
#include "kernel/process.h"
#include "model/workload.h"

// The blocking parts of a workload's beginning and end: for worker threads, never for the loop. They know nothing of
// the registry.
namespace mose::agent {

// What counts at the start alone: a move carries it on.
struct StartOptions {
  bool all_capabilities = false;
};

// Everything that can be known before anything is touched: root, init, command, mounts, bridge, address. Gives the spec
// with what follows from it filled in (MAC, path of the program, mounts that hide what is the node's).
[[nodiscard]] Answer<WorkloadSpec> check_start(const Config& config, WorkloadSpec spec, StartOptions options);

// cgroup, namespaces, network, first process, in that order; a failure has undone all. `bound` for the launch.
[[nodiscard]] Result<ProcessHandle> start_workload(const Config& config, const WorkloadSpec& spec, StartOptions options,
                                                   Nanoseconds bound);

// SIGTERM to its init (which passes it on), SIGKILL to the cgroup after `grace`, then its resources are removed.
[[nodiscard]] Status stop_workload(const Config& config, const WorkloadSpec& spec, const ProcessHandle& init,
                                   Nanoseconds grace);

// The program that `command` names, as an absolute path inside the workload: by PATH of its environment when it has no
// slash, looked up in the root and the declared mounts, each without what the node has mounted below it. Needs the right
// to mount.
[[nodiscard]] Result<std::string> find_program(const WorkloadSpec& spec, const std::string& command);

}  // namespace mose::agent
