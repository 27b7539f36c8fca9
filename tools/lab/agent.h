// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"
#include "lab/names.h"
#include "lab/state.h"

// The agents of a lab: one `mosed` in each node, with a configuration, a socket and a state directory of its own.
namespace mose::lab {

// Text of the node's /etc/mose/mose.toml. `steer`: its key of that name; empty: left out.
[[nodiscard]] std::string agent_config(const Names& names, const std::string& node, const std::string& steer, bool tls);

// Starts mosed in the node, its log appended to the node's mosed.log on the host, and waits (bounded) until its control
// socket answers. On failure it has been ended again and the error holds the last lines of the log.
[[nodiscard]] Result<ProcessRecord> start_agent(const Names& names, const LabState& state, const std::string& node);
// SIGTERM, then SIGKILL. No agent is no failure.
[[nodiscard]] Status stop_agent(const LabState& state, const std::string& node);
// True when a connection to the control socket is accepted.
[[nodiscard]] bool agent_answers(const LabState& state, const std::string& node);

}  // namespace mose::lab
