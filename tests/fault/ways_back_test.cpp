// SPDX-License-Identifier: MIT
// What the journals promise beyond the death of an agent: a commit outlives its source, and what could not be done is done
// when an operator asks for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>

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
    ASSERT_TRUE(wait_until([&] { return processes_at_destination().empty(); }, kDeathBound));
  }
  std::vector<pid_t> processes_at_destination() const {
    std::ifstream file(group(destination_) + "/cgroup.procs");
    return {std::istream_iterator<pid_t>(file), {}};
  }
  // As the kernel does where memory is short: while the frame waits, and before it goes on.
  void kill_in_the_fence_at(FrameType type, Direction direction, bool all) {
    FrameRule rule;
    rule.type = type;
    rule.direction = direction;
    rule.action = [this, all] {
      const auto processes = processes_at_destination();
      before_ = processes.size();
      if (all) std::ofstream(group(destination_) + "/cgroup.kill") << "1";
      else if (before_ > 1) ::kill(processes.back(), SIGKILL);
      left_ = all ? 0 : before_ - 1;
      // Those who are left are ended by the agent, maybe before this looks.
      wait_until([&] { return processes_at_destination().size() <= left_; }, kDeathBound);
      after_ = processes_at_destination().size();
    };
    bed_->proxy_of(destination_).set_rule(std::move(rule));
    start({.strategy = "precopy"});
  }
  void check_killed() {
    check_end(Side::source);
    EXPECT_GT(before_, 1u);
    EXPECT_LE(after_, left_);
    EXPECT_EQ(report_text("/outcome"), "failed");
    EXPECT_THAT(report_text("/reason"), ::testing::HasSubstr("ended on node " + destination_));
    EXPECT_EQ(phase_at(destination_), "");
  }
  std::atomic<size_t> before_ = 0, left_ = 0, after_ = 0;  // processes in the fence
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
  const size_t ready = text.find("\"record\":\"ready\"");
  ASSERT_NE(ready, std::string::npos) << path;
  const size_t line = text.rfind('\n', ready) + 1;
  journal.clear();
  journal.seekp(static_cast<std::streamoff>(line));
  journal << std::string(text.size() - line, '\0');
  journal.close();
  restart_agents();
  if (!HasFatalFailure()) check_taken_back();
}

// What an operator says of a destination that was switched off, and of journals that are not there any more.
class OperatorDecides : public WaysBack {
 protected:
  bool stopped(const std::string& node) { return !group_may_run(group(node)); }
  std::string journal_at(const std::string& node) {
    return bed_->root(node) + "/var/lib/mose/journal/" + id_ + (node == source_ ? ".source" : ".destination");
  }
  // The commit is on the source's disk, and the destination, which has not heard of it, is dead.
  void commit_and_lose_the_destination() { move_until_killed(FrameType::commit, Direction::to_target, destination_); }
};

TEST_F(OperatorDecides, ADestinationThatIsGoneForGoodIsResumedAtTheSource) {
  commit_and_lose_the_destination();
  if (HasFatalFailure()) return;
  const std::string shown = said(source_, {"recover", id_});
  EXPECT_THAT(shown, ::testing::HasSubstr(source_ + " (source): journal: commit of "));
  EXPECT_THAT(shown, ::testing::HasSubstr(destination_ + " (destination): no record; cannot be asked"));
  EXPECT_THAT(shown, ::testing::HasSubstr("`mose recover " + id_ + " --resume-here` lets redis run on here"));
  EXPECT_THAT(said(source_, {"cancel", id_}, 3), ::testing::HasSubstr("past its commit point"));
  EXPECT_THAT(said(source_, {"recover", id_, "--resume-here"}, 3),
              ::testing::AllOf(::testing::HasSubstr("BY YOUR WORD ALONE"), ::testing::HasSubstr("ONLY IF node " + destination_ + " IS SWITCHED OFF FOR GOOD"),
                               ::testing::HasSubstr("--yes")));
  EXPECT_TRUE(stopped(source_)) << "it was not agreed to";
  said(source_, {"recover", id_, "--resume-here", "--yes"});
  EXPECT_TRUE(wait_until([&] { return !stopped(source_); }, kReachBound));
  // It comes back all the same, asks, and throws away what it has.
  restart_agents();
  if (HasFatalFailure()) return;
  check_end(Side::source);
  EXPECT_EQ(report_text("/outcome"), "failed");
  EXPECT_THAT(report_text("/reason"), ::testing::HasSubstr("the operator has resumed it at the source"));
}

// The same word, and the destination is there: it goes forward, whoever says what.
TEST_F(OperatorDecides, ADestinationThatIsThereIsNotGone) {
  constexpr uint64_t kSlowBps = 10'000'000;  // so that it has not ended before it is decided about
  kill_at(FrameType::committed, Direction::from_target, destination_);
  start({.strategy = "postcopy", .max_bandwidth_bps = kSlowBps});
  if (!HasFatalFailure()) wait_for_death(destination_);
  if (HasFatalFailure()) return;
  restart_agents();
  if (HasFatalFailure()) return;
  // It is asked once it has been reached: before that it counts as gone, and the operator as one who knows.
  std::string shown;
  EXPECT_TRUE(wait_until([&] { return (shown = said(source_, {"recover", id_, "--dry-run"})).find("cannot be asked") == std::string::npos; }, kReachBound)) << shown;
  for (const char* wish : {"--resume-here", "--give-up"}) {
    EXPECT_THAT(said(source_, {"recover", id_, wish, "--yes"}, 3),
                ::testing::AllOf(::testing::HasSubstr("node " + destination_ + " is there and has the migration (committed): it goes on by itself"),
                                 ::testing::HasSubstr("nothing was done")));
  }
  EXPECT_TRUE(stopped(source_)) << "the state of the past";
  EXPECT_FALSE(stopped(destination_)) << "it runs there, and goes on";
  EXPECT_THAT(phase_at(source_), ::testing::Not(::testing::HasSubstr("aborting")));
  check_end(Side::destination);
}

// Nobody can read there what was decided. The destination has not run it, says so, and throws it away before the source resumes.
TEST_F(OperatorDecides, ASourceWithoutItsJournalAsksBeforeItRuns) {
  commit_and_lose_the_destination();
  if (HasFatalFailure()) return;
  bed_->kill_agent(source_);
  ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(source_); }, kDeathBound));
  const std::string journal = journal_at(source_);
  std::filesystem::rename(journal, bed_->root(source_) + "/var/lib/mose/moved-away");
  restart_agents();
  if (HasFatalFailure()) return;
  EXPECT_THAT(phase_at(source_), ::testing::HasSubstr("undecided: its journal"));
  const std::string shown = said(source_, {"recover", id_, "--dry-run"});
  EXPECT_THAT(shown, ::testing::HasSubstr(destination_ + " (destination): journal: ready of "));
  EXPECT_THAT(shown, ::testing::HasSubstr("certain: node " + destination_ + " has not run redis: it is told to throw away what it has"));
  EXPECT_TRUE(stopped(source_));
  said(source_, {"recover", id_, "--yes"});
  check_end(Side::source);
  std::filesystem::remove(bed_->root(source_) + "/var/lib/mose/moved-away");
}

// Found again, it decides as it would have at the start of the agent: the other node, which waits for just that, does not say the contrary.
TEST_F(OperatorDecides, AJournalThatIsBackIsFoundWithoutTheOperator) {
  commit_and_lose_the_destination();
  if (HasFatalFailure()) return;
  bed_->kill_agent(source_);
  ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(source_); }, kDeathBound));
  const std::string state = bed_->root(source_) + "/var/lib/mose/", journal = journal_at(source_);
  std::filesystem::rename(journal, state + "moved-away");
  restart_agents();
  if (HasFatalFailure()) return;
  EXPECT_THAT(phase_at(source_), ::testing::HasSubstr("undecided: its journal"));
  bed_->kill_agent(destination_);  // who cannot be asked has not said that it agrees
  ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(destination_); }, kDeathBound));
  std::filesystem::rename(state + "moved-away", journal);
  std::this_thread::sleep_for(std::chrono::seconds(5));  // one look at least
  EXPECT_THAT(phase_at(source_), ::testing::HasSubstr("undecided: its journal"));
  restart_agents();
  if (!HasFatalFailure()) check_end(Side::destination);
}

// With its node and its memory; the name is free again, and a destination that comes back has nothing to run.
TEST_F(OperatorDecides, WhatIsGivenUpEndsAsLostOnBothNodes) {
  constexpr uint64_t kSlowBps = 20'000'000;
  kill_at(FrameType::commit, Direction::to_target, destination_);
  start({.strategy = "postcopy", .max_bandwidth_bps = kSlowBps});
  if (!HasFatalFailure()) wait_for_death(destination_);
  if (HasFatalFailure()) return;
  EXPECT_THAT(said(source_, {"recover", id_, "--give-up", "--dry-run"}), ::testing::HasSubstr("A CONNECTION OF ITS PAGER STANDS HERE"));
  EXPECT_THAT(said(source_, {"stop", kWorkload}, 3), ::testing::HasSubstr("`mose recover"));
  said(source_, {"recover", id_, "--give-up", "--yes"});
  auto idle = [&](const std::string& node) { return said(node, {"status"}).contains("no migration is under way"); };
  EXPECT_TRUE(wait_until([&] { return idle(source_); }, kSettleBound)) << said(source_, {"status"});
  EXPECT_THAT(said(source_, {"show", id_}), ::testing::HasSubstr("lost: given up by the operator of the source"));
  restart_agents();
  if (HasFatalFailure()) return;
  EXPECT_TRUE(wait_until([&] { return idle(destination_); }, kSettleBound)) << said(destination_, {"status"});
  for (const char* node : lab::kNodes) {
    EXPECT_FALSE(running_evidence(group(node), "redis-").has_value()) << node;
    std::vector<std::string> left;
    wait_until([&] { return (left = bed_->leftovers(node, false)).empty(); }, kCleanBound);
    for (const std::string& what : left) ADD_FAILURE() << "left on " << node << ": " << what;
  }
  Stage::drop();  // its workload is gone
  bed_ = nullptr;
}

// Nothing of what it would send has left the node: it has never run there.
TEST_F(OperatorDecides, WhatHasNotRunIsGivenUpWithoutItsJournalAndTakenBack) {
  commit_and_lose_the_destination();
  if (HasFatalFailure()) return;
  std::filesystem::remove(journal_at(destination_));
  restart_agents();
  if (HasFatalFailure()) return;
  EXPECT_TRUE(stopped(destination_) && stopped(source_));
  EXPECT_THAT(said(destination_, {"recover", id_, "--give-up", "--yes"}), ::testing::HasSubstr("killed and thrown away"));
  EXPECT_TRUE(wait_until([&] { return !stopped(source_); }, kReachBound)) << phase_at(source_);
  check_taken_back();
}

// It has never run there, and its source, which had committed, takes that back.
TEST_F(OperatorDecides, WhatWaitsForItsVerdictIsGivenUpAtTheDestination) {
  move_until_killed(FrameType::commit, Direction::to_target, source_);
  if (HasFatalFailure()) return;
  EXPECT_THAT(said(destination_, {"recover", id_}), ::testing::HasSubstr("is asked how migration " + id_ + " was decided"));
  EXPECT_THAT(said(destination_, {"recover", id_, "--resume-here", "--yes"}, 3), ::testing::HasSubstr("this node is the destination"));
  EXPECT_THAT(said(destination_, {"recover", id_, "--give-up", "--yes"}), ::testing::HasSubstr("what has arrived of redis is thrown away"));
  EXPECT_TRUE(wait_until([&] { return !std::filesystem::exists(group(destination_)); }, kReachBound));
  restart_agents();
  if (!HasFatalFailure()) check_taken_back();
}

// Its history has rolled over, for one: it would say "no such migration here" for ever.
TEST_F(OperatorDecides, ADestinationThatHasForgottenItIsDecidedAbout) {
  lose_the_fenced_tree();
  if (HasFatalFailure()) return;
  const std::string state = bed_->root(destination_) + "/var/lib/mose";
  std::filesystem::remove(journal_at(destination_));
  restart_agents();
  if (HasFatalFailure()) return;
  EXPECT_TRUE(wait_until([&] { return phase_at(source_).find("no such migration here") != std::string::npos; }, kReachBound)) << phase_at(source_);
  EXPECT_THAT(said(source_, {"recover", id_}), ::testing::AllOf(::testing::HasSubstr("nothing of it is known there"),
                                                               ::testing::HasSubstr("not even in its history"), ::testing::HasSubstr("find out (1)")));
  EXPECT_TRUE(stopped(source_));
  said(source_, {"recover", id_, "--resume-here", "--yes"});
  EXPECT_TRUE(wait_until([&] { return !stopped(source_); }, kReachBound));
  said(destination_, {"cleanup"});
  check_end(Side::source);
}

// As after a disk that came back without them. What a journal claims is left alone.
TEST_F(OperatorDecides, WhatHasArrivedAndNoRecordNamesIsCleanedUp) {
  commit_and_lose_the_destination();
  if (HasFatalFailure()) return;
  said(source_, {"recover", id_, "--resume-here", "--yes"});
  ASSERT_TRUE(wait_until([&] { return !stopped(source_); }, kReachBound));
  const std::string state = bed_->root(destination_) + "/var/lib/mose";
  std::filesystem::remove(journal_at(destination_));
  std::filesystem::remove(state + "/workloads/redis.json");
  restart_agents();
  if (HasFatalFailure()) return;
  ASSERT_FALSE(bed_->pagers(destination_).empty());
  EXPECT_TRUE(std::filesystem::exists(group(destination_)));
  const std::string shown = said(destination_, {"cleanup", "--dry-run"});
  EXPECT_THAT(shown, ::testing::AllOf(::testing::HasSubstr("redis is named by no record"), ::testing::HasSubstr("migration " + id_ + " has no journal"),
                                      ::testing::HasSubstr("pager and guardian")));
  EXPECT_FALSE(bed_->pagers(destination_).empty()) << "it was only shown";
  EXPECT_THAT(said(source_, {"cleanup", "--dry-run"}), ::testing::HasSubstr("nothing to clean up"));
  EXPECT_THAT(said(destination_, {"cleanup"}), ::testing::HasSubstr("what was left of migration " + id_));
  EXPECT_TRUE(bed_->pagers(destination_).empty());
  EXPECT_TRUE(bed_->guardians(destination_).empty());
  check_end(Side::source);
}

// Its agent lives, and nobody's COMMIT thaws an empty group.
TEST_F(WaysBack, AFencedTreeThatIsKilledGivesTheCommitBack) {
  kill_in_the_fence_at(FrameType::commit, Direction::to_target, true);
  if (!HasFatalFailure()) check_killed();
}

// Nor does it thaw what has lost a process: the source still has all of them.
TEST_F(WaysBack, AFencedTreeThatHasLostAProcessGivesTheCommitBack) {
  kill_in_the_fence_at(FrameType::commit, Direction::to_target, false);
  if (!HasFatalFailure()) check_killed();
}

TEST_F(WaysBack, AFencedTreeThatIsKilledBeforeTheSourceHasCommittedEndsTheMove) {
  kill_in_the_fence_at(FrameType::ready, Direction::from_target, true);
  if (!HasFatalFailure()) check_killed();
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
