// SPDX-License-Identifier: MIT
#include "agent/orphan_reaper.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kLookEvery = std::chrono::seconds(10);

}  // namespace

OrphanReaper::OrphanReaper(EventLoop& loop) : loop_(loop), timer_(loop.every(kLookEvery, [this] { look(); })) {}
OrphanReaper::~OrphanReaper() { loop_.cancel(timer_); }

void OrphanReaper::look() {
  std::set<EndedChild> still;
  for (const EndedChild& child : ended_children()) {
    if (!seen_.contains(child) || !reap_child(child)) still.insert(child);
  }
  seen_ = std::move(still);
}

}  // namespace mose::agent
