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
  // From the start of a move until that node's agent has died at that frame.
  void move_until_killed(FrameType type, Direction direction, const std::string& node) {
    kill_at(type, direction, node);
    start({.standby = true});
    if (!HasFatalFailure()) wait_for_death(node);
  }
  void kill_at(FrameType type, Direction direction, const std::string& node) {
    bed_->proxy_of(destination_).set_rule(cut_at(type, direction, [bed = bed_, node] { bed->kill_agent(node); }));
  }
  void wait_for_death(const std::string& node) {
    ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound)) << "the moment never came";
    ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(node); }, kDeathBound));
  }
  // With the source's commit on its disk and the destination's agent dead before it has heard of that.
  void lose_the_fenced_tree() {
    move_until_killed(FrameType::commit, Direction::to_target, destination_);
    if (HasFatalFailure()) return;
    std::ofstream(group(destination_) + "/cgroup.kill") << "1";
    auto gone = [&] {
      std::ifstream processes(group(destination_) + "/cgroup.procs");
      return processes.peek() == std::ifstream::traits_type::eof();
    };
    ASSERT_TRUE(wait_until(gone, kDeathBound));
  }
  void check_taken_back() {
    check_end(Side::source);
    EXPECT_EQ(report_text("/outcome"), "failed");
    EXPECT_THAT(report_text("/reason"), ::testing::HasSubstr("the destination lost the workload before it ran there"));
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
  move_until_killed(FrameType::commit, Direction::to_target, source_);
  if (HasFatalFailure()) return;
  std::ofstream(group(source_) + "/cgroup.kill") << "1";
  ASSERT_TRUE(wait_until([&] { return !running_evidence(group(source_), "redis-"); }, kDeathBound));
  restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::destination);
}

// As after a power failure of the destination between both commits: what it has restored never ran, and is gone.
TEST_F(WaysBack, ACommitThatTheDestinationDidNotLiveToKnowIsTakenBack) {
  lose_the_fenced_tree();
  if (!HasFatalFailure()) restart_agents();
  if (!HasFatalFailure()) check_taken_back();
}

// Its record of being ready is not synced: the machine comes back without it, and has nothing to ask for.
TEST_F(WaysBack, ACommitThatTheDestinationHasNoRecordOfIsTakenBack) {
  lose_the_fenced_tree();
  if (HasFatalFailure()) return;
  const std::string path = bed_->root(destination_) + "/var/lib/mose/journal/" + id_ + ".destination";
  std::fstream journal(path, std::ios::in | std::ios::out | std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(journal), {}};
  const size_t ready = text.find("{\"record\":\"ready\"}");
  ASSERT_NE(ready, std::string::npos) << path;
  const size_t line = text.rfind('\n', ready) + 1;
  journal.clear();
  journal.seekp(static_cast<std::streamoff>(line));
  journal << std::string(text.size() - line, '\0');
  journal.close();
  restart_agents();
  if (!HasFatalFailure()) check_taken_back();
}

// It goes on by itself when the destination is back. Until then an operator can read what it waits for, and that nobody knows
// yet how it has ended.
TEST_F(WaysBack, WhileTheDestinationIsGoneAfterTheCommitTheSourceSaysSo) {
  move_until_killed(FrameType::committed, Direction::from_target, destination_);
  if (HasFatalFailure()) return;
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

// What it measured has died with the agent. What was asked for has not: the next one goes on within the same bounds.
TEST_F(WaysBack, AReportAfterARestartHasNoFiguresOfTheAgentThatDied) {
  constexpr uint64_t kSlowBps = 60'000'000;
  kill_at(FrameType::drained, Direction::to_target, source_);
  start({.strategy = "postcopy", .max_bandwidth_bps = kSlowBps});
  if (!HasFatalFailure()) wait_for_death(source_);
  if (!HasFatalFailure()) restart_agents();
  if (HasFatalFailure()) return;
  const Timestamp restarted = now();
  check_end(Side::destination);
  EXPECT_EQ(report_text("/outcome"), "complete");
  EXPECT_EQ(report_text("/strategy_requested"), "postcopy");
  EXPECT_EQ(report_text("/strategy"), "postcopy");
  EXPECT_EQ(report_value("/bulk/bandwidth_max_bps"), kSlowBps);
  for (const char* unknown : {"/total_ms", "/downtime_ms", "/strategy_reason", "/bytes_sent", "/precopy/bytes", "/bulk/bytes", "/lazy/pages",
                              "/tracking/source", "/packets/held", "/packets/silence_ms"}) {
    EXPECT_TRUE(report_value(unknown).is_null()) << unknown << " is " << report_value(unknown);
  }
  // 16 MB that hardly compress.
  EXPECT_GT(now() - restarted, std::chrono::seconds(1)) << "the cap was forgotten";
}

TEST_F(WaysBack, AMoveIsInTheHistoryOfASourceThatDiedWhenItWasComplete) {
  kill_at(FrameType::released, Direction::to_target, source_);
  start();
  if (!HasFatalFailure()) wait_for_death(source_);
  if (!HasFatalFailure()) restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::destination);
  EXPECT_EQ(report_text("/outcome"), "complete");
  EXPECT_THAT(report_text("/reason"), ::testing::HasSubstr("restarted before it had written the report"));
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
  kill_at(FrameType::aborted, Direction::from_target, source_);
  start({.max_bandwidth_bps = kSlowBps});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return phase_at(source_).find("precopy") != std::string::npos; }, kReachBound)) << phase_at(source_);
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  wait_for_death(source_);
  if (HasFatalFailure()) return;
  restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::source);
  EXPECT_EQ(phase_at(source_), "") << "nothing of it is undecided";
  EXPECT_THAT(report_text("/outcome"), ::testing::AnyOf("failed", "cancelled"));
}

}  // namespace
}  // namespace mose::test
