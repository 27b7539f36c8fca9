// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "lab/names.h"
#include "lab/state.h"

// A lab on this machine: nodes a and b with an agent each, a client, one segment.
//
// Life: up() makes it, cleaning first what a crashed lab of that name left; it stays until down(), whoever made it.
// Callers hold the LabLock of the name, except for what only reads.
namespace mose::lab {

struct LabOptions {
  std::string lab = kDefaultLab;
  std::optional<double> link_rate_mbit;  // absent: plain veth, unlimited
  std::optional<double> link_rtt_ms;     // between the nodes; with it the links are emulated (link_process.h)
  std::string steer;                     // node.steer of both nodes; empty: their default
  bool tls = true;                       // certificates for both nodes, of an authority of this lab; false: plain text
  bool agents = true;                    // false: nodes without mosed (for the baseline alone and for tests)
};

// Changes nothing and succeeds when the lab is already up as a whole.
[[nodiscard]] Result<LabState> up(const LabOptions& options);
// Idempotent.
[[nodiscard]] Status down(const Names& names);

// Starts the node's mosed and waits until its control socket answers; a running one is ended first.
[[nodiscard]] Status restart_agent(const Names& names, LabState& state, const std::string& node);

struct NodeStatus {
  std::string node, address;
  bool keeper = false, agent = false, agent_answers = false;
  int keeper_pid = 0, agent_pid = 0;
};
struct LabStatus {
  std::string lab;
  bool exists = false, complete = false;
  bool leftover = false;  // of a `lab run` that was killed: the next `up` makes it anew
  std::vector<NodeStatus> nodes;
  [[nodiscard]] bool healthy() const;
};
[[nodiscard]] Result<LabStatus> status(const Names& names);

// Path of a node's control socket as seen from here.
[[nodiscard]] Result<std::string> control_socket(const LabState& state, const std::string& node);

}  // namespace mose::lab
