// SPDX-License-Identifier: MIT
#include "restore/standby_discard.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "kernel/stopped_tree.h"
#include "netns/pager/frozen_pair.h"

// Pages are taken out of frozen processes that never notice: what they find afterwards says which.
namespace mose::restore {
namespace {

// Threads that leave nobody a processor for longer than they must.
class ProcessorsTaken {
 public:
  ProcessorsTaken() {
    for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i)
      threads_.emplace_back([](const std::stop_token& end) {
        while (!end.stop_requested()) continue;
      });
  }

 private:
  std::vector<std::jthread> threads_;
};

class StandbyDiscard : public FrozenPair {
 protected:
  void SetUp() override {
    if (!can_discard_pages()) GTEST_SKIP() << "this kernel has no process_madvise() for whatever a process could do itself";
    FrozenPair::SetUp();
  }
  Result<std::vector<PageSet>> discard(const std::array<PageSet, 2>& pages) {
    MOSE_TRY(open_processes());
    std::vector<DiscardTarget> targets;
    for (size_t who : {0u, 1u}) targets.push_back({&processes_[who], uffds_[who].get(), {area(0), area(1)}, pages[who].runs()});
    return discard_pages(group_, targets);
  }
};

TEST_F(StandbyDiscard, WhatIsTakenOutIsGoneAndNothingElseIs) {
  begin();
  ASSERT_TRUE(group_.freeze(std::chrono::seconds(5)));
  const auto pages = choose(1);
  ASSERT_GT(pages[0].runs().size(), 512u);
  auto kept = discard(pages);
  ASSERT_TRUE(kept) << kept.error().what;
  EXPECT_EQ(*kept, std::vector<PageSet>(2));
  EXPECT_TRUE(*group_.frozen());
  const uint64_t beats = shared_->beats;
  ::usleep(20'000);
  EXPECT_EQ(shared_->beats, beats) << "it runs";
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyDiscard, WhatTheThreadItselfNeedsStaysAndIsSaid) {
  begin();
  ASSERT_TRUE(group_.freeze(std::chrono::seconds(5)));
  auto pages = choose(2);
  const uint64_t base = reinterpret_cast<uint64_t>(memory_) >> kPageShift;
  pages[0].add({base + kOwnPage, 1});
  auto kept = discard(pages);
  ASSERT_TRUE(kept) << kept.error().what;
  EXPECT_EQ((*kept)[0].runs(), (std::vector<PageRun>{{base + kOwnPage, 1}}));
  EXPECT_TRUE((*kept)[1].empty());
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyDiscard, AFilterOfSystemCallsIsNotInTheWay) {
  begin([] { die_of(SYS_process_madvise); });
  ASSERT_TRUE(group_.freeze(std::chrono::seconds(5)));
  auto kept = discard(choose(3));
  ASSERT_TRUE(kept) << kept.error().what;
  EXPECT_EQ(*kept, std::vector<PageSet>(2));
  ASSERT_TRUE(group_.thaw());
  look();
}

TEST_F(StandbyDiscard, WhatRunsIsLeftAlone) {
  begin();
  const auto pages = choose(4);
  auto kept = discard(pages);
  ASSERT_TRUE(kept) << kept.error().what;
  EXPECT_EQ(*kept, (std::vector<PageSet>{pages[0], pages[1]}));
  for (auto& row : shared_->gone)
    for (auto& gone : row) gone = 0;
  look();
}

// Thawed, stopped by nobody but a tracer that is killed: it must not run a single instruction.
TEST_F(StandbyDiscard, WhoDiesInBetweenTakesTheTreeWithHim) {
  begin();
  ASSERT_TRUE(group_.freeze(std::chrono::seconds(5)));
  const uint64_t beats = shared_->beats;
  const pid_t tracer = ::fork();
  if (tracer == 0) {
    auto stopped = StoppedTree::stop(group_);
    if (!stopped || !stopped->call(parent_, SYS_getpid, {}) || *group_.freeze_requested()) ::_exit(1);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the tracer could not do its work";
  EXPECT_TRUE(group_.wait_empty(std::chrono::seconds(5)));
  EXPECT_EQ(shared_->beats, beats);
}

TEST_F(StandbyDiscard, ACallReturnsWhatTheKernelSays) {
  begin();
  ASSERT_TRUE(group_.freeze(std::chrono::seconds(5)));
  auto stopped = StoppedTree::stop(group_);
  ASSERT_TRUE(stopped) << stopped.error().what;
  for (int i = 0; i < 50; ++i) {
    auto pid = stopped->call(shared_->child, SYS_getpid, {});
    ASSERT_TRUE(pid) << pid.error().what;
    EXPECT_EQ(*pid, shared_->child);
  }
  auto refused = stopped->call(parent_, SYS_close, {~uint64_t{0}});
  ASSERT_TRUE(refused) << refused.error().what;
  EXPECT_EQ(*refused, -EBADF);
  EXPECT_FALSE(stopped->call(::getpid(), SYS_getpid, {})) << "not in the group";
  ASSERT_TRUE(stopped->let_go());
  EXPECT_TRUE(*group_.frozen());
  ASSERT_TRUE(group_.thaw());
  look();
}

// Each of its threads counts as frozen in our hands, not on its way out of them, and again in those of the freezer.
TEST_F(StandbyDiscard, WhoHasBeenLetGoStaysFrozen) {
  begin();
  ASSERT_TRUE(group_.freeze(std::chrono::seconds(5)));
  ProcessorsTaken taken;
  for (int i = 0; i < 50; ++i) {
    auto stopped = StoppedTree::stop(group_);
    ASSERT_TRUE(stopped) << i << ": " << stopped.error().what;
    ASSERT_TRUE(stopped->let_go());
    for (const Timestamp end = now() + std::chrono::milliseconds(5); now() < end;) ASSERT_TRUE(*group_.frozen()) << i;
  }
  ASSERT_TRUE(group_.thaw());
  look();
}

}  // namespace
}  // namespace mose::restore
