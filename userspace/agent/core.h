// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "agent/config.h"
#include "agent/event_loop.h"
#include "agent/history.h"
#include "agent/journal.h"
#include "agent/node_uplink.h"
#include "agent/peer_access.h"
#include "agent/worker.h"
#include "agent/workloads.h"

namespace mose::agent {

// One thing that happened on this node, for `mose events`.
struct AgentEvent {
  int64_t unix_ms = 0;
  std::string kind;     // "workload.running", "migration.finished"
  std::string subject;  // workload name or migration id
  std::string text;     // one sentence
};

// What the parts of the agent share. Made by mosed in this order, outlives them all; borrowed everywhere.
struct Core {
  const Config& config;
  const PeerAccess& peers;
  EventLoop& loop;
  WorkerPool& workers;
  Workloads& workloads;
  NodeUplink& uplink;
  History& history;
  std::string journal_dir;                          // state_dir/journal, exists
  std::function<void(const AgentEvent&)> announce;  // to every follower and the log; loop thread
};

}  // namespace mose::agent
