// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>

#include "faults.h"
#include "neighbour.h"
#include "support/support.h"

// What the tests of the time between commit and completion share: a Redis that is thawed with all of its pages missing, and a
// client whose answers need them.
namespace mose::test {

// At most twelve pages come with a fault, and each of the probes' thousand a second meets another place: with that the memory is
// complete some two to four seconds after the commit, most of it by faults.
inline constexpr double kMissingMegabytes = 96;
inline constexpr uint64_t kPostCopyBps = 60'000'000;

// What the sample that is tried each time leaves out has this for its parameters: it waits for many seconds.
inline std::vector<int> once_in_full() { return in_full() ? std::vector{1} : std::vector<int>(); }

class AfterCommit : public Faults {
 protected:
  // Ends where the destination has said COMMITTED.
  void move_until_committed(uint64_t bandwidth_bps = kPostCopyBps) {
    committed_us_ = 0;
    FrameRule rule;
    rule.type = wire::FrameType::committed;
    rule.direction = Direction::from_target;
    rule.action = [this] { committed_us_ = to_us(now()); };
    bed_->proxy_of(destination_).set_rule(rule);
    start({"postcopy", bandwidth_bps});
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return committed_us_ != 0; }, kReachBound)) << "the moment never came";
  }
  [[nodiscard]] double since_commit_ms() const { return static_cast<double>(to_us(now()) - committed_us_) / 1e3; }
  void sleep_until_ms(double since_commit) {
    while (since_commit_ms() < since_commit) ::usleep(500);
  }
  void start_what_is_dead() {
    auto restarted = bed_->start_agents();
    ASSERT_TRUE(restarted) << restarted.error().what;
  }
  void kill_agents(const std::vector<std::string>& nodes) {
    for (const std::string& node : nodes) bed_->kill_agent(node);
    for (const std::string& node : nodes) {
      ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(node); }, kDeathBound)) << "the agent of " << node << " was not killed";
    }
  }

  std::atomic<int64_t> committed_us_{0};
};

}  // namespace mose::test
