// SPDX-License-Identifier: MIT
#pragma once

#include <set>

#include "agent/event_loop.h"
#include "kernel/process.h"

// A tree that is killed, and what CRIU leaves behind, become children of the agent, which is their subreaper, and stay in the
// process table until it waits for them. Those it has started itself are waited for by whoever holds them, at once; so what has
// ended and is still there at the second look has nobody.
namespace mose::agent {

class OrphanReaper {
 public:
  explicit OrphanReaper(EventLoop& loop);
  ~OrphanReaper();
  OrphanReaper(const OrphanReaper&) = delete;
  OrphanReaper& operator=(const OrphanReaper&) = delete;

 private:
  void look();
  EventLoop& loop_;
  EventLoop::TimerId timer_;
  std::set<EndedChild> seen_;
};

}  // namespace mose::agent
