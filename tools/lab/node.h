// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"
#include "kernel/process.h"
#include "lab/child_process.h"
#include "lab/names.h"
#include "lab/state.h"

// A running node: a pid, mount, uts and ipc namespace of its own, the network namespace of the topology, and its root
// directory on disk as "/". Its first process, the keeper, does not end with the command that started it; killing the
// keeper kills the node.
namespace mose::lab {

// Starts the keeper in NODE's cgroup. Everything must exist: network namespace, root, cgroup.
[[nodiscard]] Result<ProcessRecord> start_keeper(const Names& names, const std::string& node, const std::string& cgroup_mount);

// The process of a record, if it is still the same; ESRCH otherwise.
[[nodiscard]] Result<ProcessHandle> open_record(const ProcessRecord& record);
[[nodiscard]] bool is_alive(const ProcessRecord& record);

// Where programs of the node run.
struct NodePlace {
  Place place;
  std::string cgroup;  // the leaf in which the agent and other programs of the node are; absolute
  std::string root;    // the node's "/" as seen from here: /proc/PID/root
};
[[nodiscard]] Result<NodePlace> open_node(const LabState& state, const std::string& node);

// The leaf of a node's cgroup for everything but workloads.
[[nodiscard]] std::string system_cgroup(const std::string& cgroup_mount, const Names& names, const std::string& node);

}  // namespace mose::lab
