// SPDX-License-Identifier: MIT
// A source that dies for good after the commit: the workload stands still at the page that is missing and never runs on with zeros,
// the operator reads what is lost, and can end it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "after_commit.h"

namespace mose::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Nanoseconds kStandsStill = std::chrono::seconds(3);

class SourceLost : public AfterCommit {
 protected:
  void TearDown() override {
    AfterCommit::TearDown();
    Stage::drop();  // its workload is gone
  }
  void reach() {
    move_until_committed();
    if (HasFatalFailure()) return;
    sleep_until_ms(300);
    ASSERT_GT(bed_->missing_pages(destination_), 0u) << "the pages were all there already: nothing was tested";
  }
  // What clients have got until now is right, and they get nothing more.
  void check_nothing_wrong() {
    std::this_thread::sleep_for(kStandsStill);
    EXPECT_TRUE(group_may_run(bed_->cgroup(destination_)));
    auto figures = bed_->load().end_window();
    ASSERT_TRUE(figures) << figures.error().what;
    EXPECT_GT(figures->answers, 0u);
    EXPECT_FALSE(figures->all_answered) << "it ran on without its pages";
    EXPECT_EQ(figures->counts.errors, figures->unanswered);
    EXPECT_EQ(figures->counts.resets, 0u);
    EXPECT_EQ(figures->counts.lost + figures->counts.duplicated + figures->counts.reordered, 0u);
    std::printf("%llu answers, all right, then silence\n", static_cast<unsigned long long>(figures->answers));
  }
  bool idle(const std::string& node) { return said(node, {"status"}).contains("no migration is under way"); }
  // The way to end it: the workload is stopped, and everything of the migration goes.
  void give_up() {
    EXPECT_THAT(said(destination_, {"stop", kWorkload, "--grace", "200ms"}), HasSubstr("stopped"));
    EXPECT_TRUE(wait_until([&] { return idle(destination_); }, kSettleBound)) << said(destination_, {"status"});
    EXPECT_TRUE(bed_->pagers(destination_).empty());
    expect_nothing_left();
    EXPECT_THAT(said(destination_, {"history"}), AllOf(HasSubstr(id_.substr(0, 8)), HasSubstr("lost")));
    EXPECT_THAT(said(destination_, {"show", id_}),
                AllOf(HasSubstr("lost: workload redis was stopped before its memory was complete"), HasSubstr("are only at node " + source_)));
  }
  void expect_nothing_left() {
    std::vector<std::string> left;
    wait_until([&] { return (left = bed_->leftovers(destination_, false)).empty(); }, kCleanBound);
    for (const std::string& what : left) ADD_FAILURE() << "left on " << destination_ << ": " << what;
  }
};

class SourceLostInFull : public SourceLost, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(All, SourceLostInFull, ::testing::ValuesIn(once_in_full()));
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SourceLostInFull);

TEST_F(SourceLost, TheWholeNodeIsGoneAndTheOperatorGivesUp) {
  reach();
  if (HasFatalFailure()) return;
  bed_->kill_node(source_);
  check_nothing_wrong();
  if (HasFatalFailure()) return;
  auto progress = bed_->progress(destination_);
  ASSERT_TRUE(progress && progress->is_object());
  const auto& memory = (*progress)["memory"];
  EXPECT_EQ(memory["alarm"], true);
  EXPECT_GT(memory["missing_bytes"], 0);
  EXPECT_GT(memory["waiting_faults"], 0);
  EXPECT_TRUE(memory["source_problem"].is_string()) << memory.dump();
  EXPECT_GT(memory["source_problem_since_unix_ms"], unix_now_ms() - 60'000);
  EXPECT_THAT(said(destination_, {"status"}),
              AllOf(HasSubstr("redis are only at node " + source_ + ", from where none has come since "), HasSubstr("if node " + source_ + " is gone for good so are they"),
                    HasSubstr("`mose stop redis` here ends redis and gives the migration up")));
  EXPECT_THAT(said(destination_, {"recover", id_}), HasSubstr("goes on by itself"));
  give_up();
}

// The agent comes back, and what it had kept has ended meanwhile.
TEST_P(SourceLostInFull, TheFrozenTreeIsGoneAndBothNodesSaySo) {
  reach();
  if (HasFatalFailure()) return;
  kill_agents({source_});
  std::ofstream(bed_->cgroup(source_) + "/cgroup.kill") << "1";
  ASSERT_TRUE(wait_until([&] { return read_file(bed_->cgroup(source_) + "/cgroup.procs").value_or("").empty(); }, kDeathBound));
  start_what_is_dead();
  if (HasFatalFailure()) return;
  check_nothing_wrong();
  if (HasFatalFailure()) return;
  const std::string lost = "the stopped redis has ended on node " + source_ + ", and with it the pages that node " + destination_ + " does not have";
  EXPECT_THAT(said(destination_, {"status"}), AllOf(HasSubstr(lost), HasSubstr("redis are only at node " + source_)));
  EXPECT_THAT(said(source_, {"status"}), HasSubstr(lost));
  give_up();
  // The source hears of it, and is done as well.
  EXPECT_TRUE(wait_until([&] { return idle(source_); }, kSettleBound)) << said(source_, {"status"});
  EXPECT_THAT(said(source_, {"history"}), HasSubstr("lost"));
}

// The tree dies while an agent that knows nothing of it answers requests: never with zeros.
TEST_P(SourceLostInFull, ATreeThatIsKilledBesideItsAgentGivesNoZeros) {
  reach();
  if (HasFatalFailure()) return;
  std::ofstream(bed_->cgroup(source_) + "/cgroup.kill") << "1";
  check_nothing_wrong();
  if (HasFatalFailure()) return;
  EXPECT_THAT(said(destination_, {"status"}), HasSubstr("has ended"));
  give_up();
}

// No hand of an operator's: a workload that ends by itself needs no pages any more.
TEST_F(SourceLost, AWorkloadThatEndsTakesItsMigrationWithIt) {
  reach();
  if (HasFatalFailure()) return;
  kill_agents({source_});
  std::ofstream(bed_->cgroup(destination_) + "/cgroup.kill") << "1";
  EXPECT_TRUE(wait_until([&] { return idle(destination_); }, kSettleBound)) << said(destination_, {"status"});
  EXPECT_TRUE(bed_->pagers(destination_).empty());
  EXPECT_THAT(said(destination_, {"show", id_}), AllOf(HasSubstr("lost: workload redis has ended"), HasSubstr("before its memory was complete")));
  start_what_is_dead();
  EXPECT_TRUE(wait_until([&] { return idle(source_); }, kSettleBound)) << said(source_, {"status"});
  EXPECT_THAT(said(source_, {"history"}), HasSubstr("lost"));
  EXPECT_THAT(said(source_, {"workloads"}), HasSubstr("away"));
}

}  // namespace
}  // namespace mose::test
