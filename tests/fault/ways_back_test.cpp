// SPDX-License-Identifier: MIT
// What the journals promise beyond the death of an agent: a commit outlives its source, and what could not be done is done
// when an operator asks for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "faults.h"

namespace mose::test {
namespace {

using wire::FrameType;

class WaysBack : public Faults {
 protected:
  std::string group(const std::string& node) const { return bed_->cgroup(node); }
  std::string phase_at(const std::string& node) {
    auto list = bed_->under_way(node);
    return list && !list->empty() ? list->front() : "";
  }
  void restart_agents() {
    std::this_thread::sleep_for(kRestartPause);
    auto restarted = bed_->start_agents();
    ASSERT_TRUE(restarted) << restarted.error().what;
  }
};

// As after a power failure of the source: its record of the commit is all that is left of it. The destination has everything,
// and knows no verdict.
TEST_F(WaysBack, ACommitThatIsOnTheDiskOutlivesTheSourcesTree) {
  FrameRule rule;
  rule.type = FrameType::commit;
  rule.then = FrameRule::Then::cut;
  rule.action = [bed = bed_, node = source_] { bed->kill_agent(node); };
  bed_->proxy_of(destination_).set_rule(rule);
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound)) << "the moment never came";
  ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(source_); }, kDeathBound));
  std::ofstream(group(source_) + "/cgroup.kill") << "1";
  ASSERT_TRUE(wait_until([&] { return !running_evidence(group(source_), "redis-"); }, kDeathBound));
  restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::destination);
}

// It goes on by itself when the destination is back. Until then an operator can read what it waits for, and that nobody knows
// yet how it has ended.
TEST_F(WaysBack, WhileTheDestinationIsGoneAfterTheCommitTheSourceSaysSo) {
  FrameRule rule;
  rule.type = FrameType::committed;
  rule.direction = Direction::from_target;
  rule.then = FrameRule::Then::cut;
  rule.action = [bed = bed_, node = destination_] { bed->kill_agent(node); };
  bed_->proxy_of(destination_).set_rule(rule);
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound)) << "the moment never came";
  EXPECT_TRUE(wait_until([&] { return phase_at(source_).find("it is tried again") != std::string::npos; }, kReachBound))
      << phase_at(source_);
  EXPECT_THAT(phase_at(source_), ::testing::HasSubstr("committed: node " + destination_));
  auto report = bed_->report(source_, id_);
  ASSERT_TRUE(report) << report.error().what;
  EXPECT_THAT(*report, ::testing::HasSubstr("\"outcome\":null"));
  restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::destination);
  EXPECT_EQ(report_text("/outcome"), "complete");
}

// Somebody's group inside the workload's: the destination cannot clear away, says so, and does it when asked again.
TEST_F(WaysBack, WhatCouldNotBeDiscardedIsWhenTheOperatorAsks) {
  constexpr uint64_t kSlowBps = 20'000'000;
  constexpr Nanoseconds kGivesUpBound = std::chrono::seconds(30);
  start({.max_bandwidth_bps = kSlowBps});
  if (HasFatalFailure()) return;
  const std::string obstacle = group(destination_) + "/obstacle";
  ASSERT_TRUE(wait_until([&] { return std::filesystem::exists(group(destination_)); }, kReachBound));
  ASSERT_TRUE(wait_until([&] { return std::filesystem::create_directory(obstacle); }, kReachBound));
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  EXPECT_TRUE(wait_until([&] { return phase_at(destination_).find("undecided") != std::string::npos; }, kGivesUpBound))
      << phase_at(destination_);
  EXPECT_THAT(phase_at(destination_), ::testing::HasSubstr("could not be removed"));
  std::filesystem::remove(obstacle);
  bed_->recover(destination_, id_);
  check_end(Side::source);
}

// Its workload runs again and is free for another move; only the destination's answer is missing.
TEST_F(WaysBack, AnAbortIsKnownToAnAgentThatDiesBeforeItsDestinationHasAnswered) {
  constexpr uint64_t kSlowBps = 20'000'000;
  FrameRule rule;
  rule.type = FrameType::aborted;
  rule.direction = Direction::from_target;
  rule.then = FrameRule::Then::cut;
  rule.action = [bed = bed_, node = source_] { bed->kill_agent(node); };
  bed_->proxy_of(destination_).set_rule(rule);
  start({.max_bandwidth_bps = kSlowBps});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return phase_at(source_).find("precopy") != std::string::npos; }, kReachBound)) << phase_at(source_);
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound)) << "the moment never came";
  ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(source_); }, kDeathBound));
  restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::source);
  EXPECT_EQ(phase_at(source_), "") << "nothing of it is undecided";
  EXPECT_THAT(report_text("/outcome"), ::testing::AnyOf("failed", "cancelled"));
}

}  // namespace
}  // namespace mose::test
