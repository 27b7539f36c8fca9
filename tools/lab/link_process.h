// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "lab/link_queue.h"
#include "lab/names.h"
#include "lab/state.h"

// The emulated links of a lab, where the kernel has nothing that delays frames (netem): each node's uplink is then a
// pair of taps, its own in the node and the switch's port, and a process that carries frames between them. A frame from
// one node to the other passes two such links; each delays by half of one way.
namespace mose::lab {

// The shape of each node's link for what is asked for between the nodes.
[[nodiscard]] LinkShape link_shape(const LabState& state);

// Makes the taps (kUplink in the node, pa and pb in the switch) and the process, a member of `cgroup` that outlives us.
// The namespaces must exist.
[[nodiscard]] Result<ProcessRecord> start_link(const Names& names, const LinkShape& shape, const std::string& cgroup);

}  // namespace mose::lab
