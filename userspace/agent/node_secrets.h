// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "agent/config.h"
#include "agent/refusal.h"
#include "model/workload.h"

namespace mose::agent {

// What a workload must not see of its node, where that lies in the workload's root: the directory of the node's key, the agent's
// state and its sockets. An empty directory is mounted over each, read-only, as a mount that is declared like any other and moves with the
// workload. (That nothing takes it away again is a matter of capabilities: see mose-exec.)
//
// Adds these mounts, before those of the operator. Refuses a declared mount that shows any of it, and a key in a directory that the
// workload needs.
[[nodiscard]] Answer<void> hide_node_secrets(const Config& config, WorkloadSpec& spec);

// Of a workload that comes from another node, with mounts for what that one hides: the directories of this one that it could read here,
// in words; empty: none.
[[nodiscard]] std::string shown_node_secrets(const Config& config, const WorkloadSpec& spec);

}  // namespace mose::agent
