// SPDX-License-Identifier: MIT
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <random>
#include <thread>

#include "netns/pager/harness.h"

namespace mose::test {
namespace {

constexpr SpaceId kSpace = 11;
constexpr uint64_t kPages = 4096;
constexpr uint64_t kRound1 = 3000;  // pages of the first round; the others come later, or never
// Pages that the restore itself touches: in the store, and not.
constexpr uint64_t kBareRead = 9, kBareAbsent = 3600, kBareWritten[] = {5, 700, 3500};

// Pages that the tree itself may not write to, or not even read.
constexpr uint64_t kProtectedPages = 100;
constexpr std::pair<uint64_t, int> kProtected[] = {{1200, PROT_READ}, {2500, PROT_NONE}};

// What test and child share: the version that each page must have in the end (0: zero), and where the child has got to.
struct Shared {
  std::array<std::atomic<uint64_t>, kPages> truth;
  std::atomic<int> restored, thawed;
  std::atomic<int> drop;                        // 1: the tree gives these back itself; 2: it has
  std::array<std::atomic<uint8_t>, kPages> gone;
};

class PagerStandby : public testing::Test {
 protected:
  static void SetUpTestSuite() { require_userfaultfd(); }
  void SetUp() override {
    shared_ = static_cast<Shared*>(
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    start_over();
  }
  void TearDown() override { ::munmap(shared_, sizeof(Shared)); }
  void start_over() {
    shared_->restored = shared_->thawed = shared_->drop = 0;
    for (auto& one : shared_->gone) one = 0;
  }

  // Behaves like CRIU's restorer first (memory is touched, and written), then waits for the thaw and looks at every
  // page.
  Toy::Scenario tree() {
    return [shared = shared_]() -> int {
      bool right = page_is(1, kToyPage + kBareRead, toy_page(kBareRead)) &&
                   (shared->truth[kBareAbsent] == 0 ? page_is_zero(toy_page(kBareAbsent))
                                                    : page_is(1, kToyPage + kBareAbsent, toy_page(kBareAbsent)));
      for (auto [first, protection] : kProtected)
        right = right && ::mprotect(toy_page(first), kProtectedPages * kPageSize, protection) == 0;
      for (uint64_t page : kBareWritten) toy_page(page)[8] = std::byte{0x77};
      shared->restored = right ? 1 : 2;
      while (shared->thawed == 0) {
        ::usleep(200);
        if (shared->drop != 1) continue;
        for (uint64_t i = 0; i < kPages; ++i)
          if (shared->gone[i]) ::madvise(toy_page(i), kPageSize, MADV_DONTNEED);
        shared->drop = 2;
      }
      for (auto [first, protection] : kProtected)
        if (::mprotect(toy_page(first), kProtectedPages * kPageSize, PROT_READ | PROT_WRITE) != 0) return 4;
      for (uint64_t i = 0; i < kPages; ++i) {
        uint64_t version = shared->truth[i];
        if (version != 0 ? !page_is(version, kToyPage + i, toy_page(i)) : !page_is_zero(toy_page(i))) {
          std::fprintf(stderr, "page %lu should be of version %lu\n", i, version);
          return 3;
        }
      }
      return 0;
    };
  }
  void put(StoreProvider& provider, std::vector<PageRun> runs, uint64_t version, bool slow = false) {
    for (PageRun& run : runs) {
      for (uint64_t i = run.first; i < run.end(); ++i) shared_->truth[i] = version;
      run.first += kToyPage;
    }
    provider.put(kSpace, std::move(runs), version, slow);
  }
  // What mosed does with a frozen tree (standby_discard_test): all but every `keep`th page.
  void take_out(PagerRig& rig, uint64_t keep) {
    auto offered = rig.pager().offered();
    ASSERT_EQ(offered.size(), 1u);
    EXPECT_EQ(offered[0].space, kSpace);
    PageSet stay;
    uint64_t number = 0;
    for (const PageRun& run : offered[0].runs)
      for (uint64_t page = run.first; page < run.end(); ++page) {
        if (keep != 0 && ++number % keep == 0)
          stay.add({page, 1});
        else
          shared_->gone[page - kToyPage] = 1;
      }
    const PageRun all{kToyPage, kPages};
    ASSERT_TRUE(uffd_unregister(offered[0].descriptor, all));
    shared_->drop = 1;
    ASSERT_TRUE(eventually([&] { return shared_->drop == 2; }));
    ASSERT_TRUE(uffd_register(offered[0].descriptor, all));
    std::vector<restore::StalePages> kept;
    if (!stay.empty()) kept.push_back({.space = kSpace, .runs = stay.runs()});
    rig.pager().discarded(std::move(kept));
  }
  std::unique_ptr<Toy> restore(PagerRig& rig, bool standby, bool discards = false) {
    auto toy = std::make_unique<Toy>(rig.criu(), kSpace, kPages, tree());
    if (standby) {
      rig.stands_by(toy->pid());
      auto begun = rig.pager().standby(discards);
      EXPECT_TRUE(begun) << begun.error().what;
    }
    rig.take_tasks(1);
    toy->wait_registered();
    toy->go();
    return toy;
  }
  void fence(PagerRig& rig) {
    rig.pager().pause();
    rig.pager().restore_ended();
    rig.pager().resume();
  }
  bool restored_right() {
    return eventually([&] { return shared_->restored != 0; }) && shared_->restored == 1;
  }
  // Some pages become zero, some remote, the others stay as they were sent last.
  void seal(StoreProvider& provider, std::mt19937_64& random, uint64_t version) {
    PageSet present, remote;
    for (uint64_t i = 0; i < kPages; ++i) {
      uint64_t fate = random() % 100;
      if (fate < 10) {
        shared_->truth[i] = 0;
        continue;
      }
      if (fate < 20 || shared_->truth[i] == 0) {
        shared_->truth[i] = version;
        remote.add({kToyPage + i, 1});
      }
      present.add({kToyPage + i, 1});
    }
    provider.seal(kSpace, std::move(present), std::move(remote), version);
  }
  // A standby that has all of round 1, of which so many pages, one of every `stride`, were written since and are remote.
  void become_stale(PagerRig& rig, StoreProvider& provider, uint64_t stale, double stride) {
    ASSERT_TRUE(restored_right());
    fence(rig);
    ASSERT_TRUE(eventually([&] { return rig.staged(); }));
    PageSet present, remote;
    present.add({kToyPage, kPages});
    for (uint64_t i = 0; i < stale; ++i) {
      const auto page = static_cast<uint64_t>(static_cast<double>(i) * stride);
      shared_->truth[page] = 2;
      remote.add({kToyPage + page, 1});
    }
    ASSERT_EQ(remote.pages(), stale);
    provider.seal(kSpace, std::move(present), std::move(remote), 2);
    rig.pager().notice_sealed();
  }
  // Whether the page, seen from outside, is already as it was sent last. All that came before it is then, too.
  static bool shows(pid_t pid, uint64_t page, uint64_t version) {
    std::array<std::byte, kPageSize> bytes;
    const iovec to{bytes.data(), bytes.size()}, from{toy_page(page), kPageSize};
    return ::process_vm_readv(pid, &to, 1, &from, 1, 0) == static_cast<ssize_t>(kPageSize) &&
           page_is(version, kToyPage + page, bytes.data());
  }
  void thaw(PagerRig& rig) {
    shared_->thawed = 1;
    rig.pager().running();
  }

  Shared* shared_ = nullptr;
};

// Many stale pages that are at the source alone are not waited for: they are taken out, and come when they are touched.
TEST_F(PagerStandby, WhatIsTakenOutOfItComesLikeAnyOtherPage) {
  constexpr uint64_t kStale = 1500;
  for (uint64_t keep : {0u, 5u, 1u}) {
    start_over();
    for (auto& one : shared_->truth) one = 0;
    StoreProvider provider(64u << 20, std::chrono::microseconds(200));
    put(provider, {{0, kPages}}, 1);
    PagerRig rig(provider, {.fill_before_resume = keep != 5});
    auto toy = restore(rig, true, true);
    become_stale(rig, provider, kStale, kPages / static_cast<double>(kStale));
    if (HasFatalFailure()) return;
    ASSERT_TRUE(eventually([&] { return rig.offers(); }));
    EXPECT_FALSE(rig.refreshed());
    take_out(rig, keep);
    if (keep == 1) provider.push();  // too many to be asked for
    ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
    auto stats = rig.pager().stats();
    EXPECT_EQ(stats.standby.discarded_pages + stats.standby.remote_pages, kStale);
    EXPECT_EQ(stats.standby.remote_pages, keep == 0 ? 0 : kStale / keep);
    EXPECT_TRUE(rig.pager().offered().empty());
    rig.pager().discarded({{.space = kSpace, .runs = {{kToyPage, 1}}}});  // nobody asked: nothing happens
    thaw(rig);
    EXPECT_EQ(toy->wait(), 0) << "keeps " << keep;
  }
}

// What comes while the switchover waits for other things is written; the rest is judged when it waits for nothing else.
TEST_F(PagerStandby, WhatComesInTimeIsNotTakenOut) {
  constexpr uint64_t kStale = 1500;
  for (uint64_t come : {kStale, kStale / 5}) {
    start_over();
    for (auto& one : shared_->truth) one = 0;
    StoreProvider provider(64u << 20, std::chrono::microseconds(200));
    put(provider, {{0, kPages}}, 1);
    PagerRig rig(provider, {.fresh_look = std::chrono::minutes(1)});
    auto toy = restore(rig, true, true);
    constexpr double kStride = kPages / static_cast<double>(kStale);
    become_stale(rig, provider, kStale, kStride);
    if (HasFatalFailure()) return;
    ::usleep(50'000);  // 30 us each are more than it costs to take them out
    EXPECT_FALSE(rig.offers());
    provider.push(come);
    if (come == kStale) {
      ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
      EXPECT_FALSE(rig.offers());
    } else {
      const auto last = static_cast<uint64_t>(static_cast<double>(come - 1) * kStride);
      ASSERT_TRUE(eventually([&] { return shows(toy->pid(), last, 2); }));
      rig.pager().pages_awaited();
      ASSERT_TRUE(eventually([&] { return rig.offers(); }));
      const auto offered = rig.pager().offered();
      ASSERT_EQ(offered.size(), 1u);
      EXPECT_EQ(count_pages(offered), kStale - come);
      take_out(rig, 0);
      ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
    }
    EXPECT_EQ(rig.pager().stats().standby.discarded_pages, kStale - come);
    thaw(rig);
    EXPECT_EQ(toy->wait(), 0) << come;
  }
}

TEST_F(PagerStandby, FewPagesAreWaitedForAndTooManyAreNotTakenOut) {
  for (uint64_t stale : {200u, 1500u}) {
    start_over();
    for (auto& one : shared_->truth) one = 0;
    StoreProvider provider(64u << 20, std::chrono::microseconds(0));
    put(provider, {{0, kPages}}, 1);
    PagerRig rig(provider);
    // 1500: who cannot take pages out is not asked to.
    auto toy = restore(rig, true, stale == 200);
    become_stale(rig, provider, stale, 2);
    if (HasFatalFailure()) return;
    if (stale != 200) {
      ::usleep(50'000);
      EXPECT_FALSE(rig.refreshed()) << "the source has not sent them";
      provider.push();
    }
    ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
    EXPECT_EQ(rig.pager().stats().standby.remote_pages, stale);
    thaw(rig);
    EXPECT_EQ(toy->wait(), 0);
    EXPECT_FALSE(rig.offers());
    EXPECT_EQ(rig.pager().stats().standby.discarded_pages, 0u);
  }
}

TEST_F(PagerStandby, EveryPageIsRightWhateverTheRoundsAndTheMapBring) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    start_over();
    for (auto& one : shared_->truth) one = 0;
    std::mt19937_64 random(seed);
    StoreProvider provider(64u << 20, std::chrono::microseconds(seed % 3 * 500));
    put(provider, {{0, kRound1}}, 1);
    PagerRig rig(provider, {.fill_before_resume = seed % 2 == 0, .piece_staged = 1 + seed * 20});
    auto toy = restore(rig, true);
    ASSERT_TRUE(restored_right()) << "the restore reads what the store has";
    fence(rig);
    if (seed % 4 == 0) {
      ASSERT_TRUE(eventually([&] { return rig.staged(); }));
    }
    // Rounds during the staging, and after it.
    uint64_t version = 1;
    for (int round = 0; round < 20; ++round) {
      std::vector<PageRun> runs;
      for (uint64_t at = random() % 60; at < kPages - 10 && runs.size() < 30;) {
        PageRun run{at, 1 + random() % 8};
        runs.push_back(run);
        at = run.end() + 1 + random() % 300;
      }
      put(provider, runs, ++version, random() % 2 == 0);
      if (random() % 3 == 0) ::usleep(static_cast<useconds_t>(random() % 8000));
    }
    EXPECT_FALSE(rig.refreshed());
    seal(provider, random, ++version);
    rig.pager().notice_sealed();
    ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
    auto stats = rig.pager().stats();
    EXPECT_TRUE(rig.staged() || stats.standby.staged_pages < kPages);
    EXPECT_GT(stats.standby.zeroed_pages, 0u);
    EXPECT_GT(stats.standby.remote_pages, 0u);
    EXPECT_LE(stats.standby.zeroed_pages + stats.standby.remote_pages, stats.standby.stale_pages);
    EXPECT_EQ(stats.unregistered_pages, 0u);
    EXPECT_FALSE(rig.completed()) << "it may still be dropped";
    thaw(rig);
    EXPECT_EQ(toy->wait(), 0) << "seed " << seed;
    provider.push();
    EXPECT_TRUE(rig.wait_complete());
  }
}

TEST_F(PagerStandby, WhatIsStagedIsNotCopiedAgainAndCausesNoFault) {
  StoreProvider provider(64u << 20, {});
  put(provider, {{0, kPages}}, 1);
  PagerRig rig(provider, {.fill_before_resume = false});
  auto toy = restore(rig, true);
  ASSERT_TRUE(restored_right());
  fence(rig);
  ASSERT_TRUE(eventually([&] { return rig.staged(); }));
  uint64_t faults = rig.pager().stats().faults;
  EXPECT_EQ(rig.pager().stats().standby.staged_pages, kPages - 5);
  ASSERT_TRUE(eventually([&] { return rig.pager().stats().standby.restaged_pages >= 5; }))
      << "what the restore touched";
  put(provider, {{100, 10}}, 2);
  provider.seal(kSpace, PageSet::from_runs({{kToyPage, kPages}}), {}, 3);
  rig.pager().notice_sealed();
  ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
  auto stats = rig.pager().stats();
  EXPECT_LE(stats.standby.stale_pages, 10u);
  EXPECT_EQ(stats.installed_pages, kPages);
  thaw(rig);
  EXPECT_EQ(toy->wait(), 0);
  EXPECT_EQ(rig.pager().stats().faults, faults);
}

TEST_F(PagerStandby, StaleRemotePagesHoldUpRefreshed) {
  StoreProvider provider(64u << 20, std::chrono::hours(1));
  put(provider, {{0, kPages}}, 1);
  PagerRig rig(provider);
  auto toy = restore(rig, true);
  ASSERT_TRUE(restored_right());
  fence(rig);
  ASSERT_TRUE(eventually([&] { return rig.staged(); }));
  shared_->truth[77] = shared_->truth[78] = shared_->truth[2000] = 4;
  provider.seal(kSpace, PageSet::from_runs({{kToyPage, kPages}}),
                PageSet::from_runs({{kToyPage + 77, 2}, {kToyPage + 2000, 1}}), 4);
  rig.pager().notice_sealed();
  ASSERT_TRUE(eventually([&] { return provider.requested() == 3; })) << "at once, and nothing else";
  ::usleep(50'000);
  EXPECT_FALSE(rig.refreshed());
  provider.push();
  ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
  thaw(rig);
  EXPECT_EQ(toy->wait(), 0);
}

// A seal that comes while CRIU still restores: nothing has been staged, what the restore has touched is stale.
TEST_F(PagerStandby, ASealBeforeTheFence) {
  StoreProvider provider(64u << 20, {});
  put(provider, {{0, kPages}}, 1);
  PagerRig rig(provider);
  auto toy = restore(rig, true);
  ASSERT_TRUE(restored_right());
  put(provider, {{0, 800}}, 2);
  provider.seal(kSpace, PageSet::from_runs({{kToyPage, kPages}}), {}, 3);
  rig.pager().notice_sealed();
  ::usleep(20'000);
  EXPECT_FALSE(rig.refreshed()) << "the restorer may still write";
  fence(rig);
  ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
  EXPECT_EQ(rig.pager().stats().standby.stale_pages, 5u);
  thaw(rig);
  EXPECT_EQ(toy->wait(), 0);
}

TEST_F(PagerStandby, ADroppedStandbyLeavesTheNormalPathAsItWas) {
  for (int when = 0; when < 3; ++when) {
    start_over();
    StoreProvider provider(64u << 20, std::chrono::microseconds(200));
    put(provider, {{0, kPages}}, 1);
    PagerRig rig(provider);
    auto first = restore(rig, true);
    ASSERT_TRUE(restored_right());
    auto last_round_and_seal = [&] {
      put(provider, {{1000, 200}, {3000, 5}}, 2);
      for (uint64_t i = 500; i < 600; ++i) shared_->truth[i] = 0;
      shared_->truth[2222] = 3;
      provider.seal(kSpace, PageSet::from_runs({{kToyPage, 500}, {kToyPage + 600, kPages - 600}}),
                    PageSet::from_runs({{kToyPage + 2222, 1}}), 3);
      rig.pager().notice_sealed();
    };
    if (when > 0) {
      fence(rig);
      ASSERT_TRUE(eventually([&] { return rig.staged(); }));
    }
    if (when > 1) {
      last_round_and_seal();
      ASSERT_TRUE(eventually([&] { return rig.refreshed(); }));
    }
    rig.pager().drop_standby();
    ::usleep(30'000);
    EXPECT_FALSE(rig.dropped()) << "its memory is alive and would read zero pages";
    first.reset();
    ASSERT_TRUE(eventually([&] { return rig.dropped(); }));
    EXPECT_FALSE(rig.pager().is_standby());
    EXPECT_EQ(rig.pager().stats().spaces, 0u);
    EXPECT_EQ(rig.pager().stats().faults, 0u);

    start_over();
    rig.listen_again();
    // Before the map the normal path answers nothing, so that the restore ends after it.
    if (when < 2) last_round_and_seal();
    Toy second(rig.criu(), kSpace, kPages, [shared = shared_] {
      for (uint64_t i = 0; i < kPages; ++i) {
        uint64_t version = shared->truth[i];
        if (version != 0 ? !page_is(version, kToyPage + i, toy_page(i)) : !page_is_zero(toy_page(i))) return 3;
      }
      return 0;
    });
    rig.take_tasks(1);
    second.wait_registered();
    fence(rig);
    provider.push();
    ASSERT_TRUE(rig.wait_complete());
    EXPECT_EQ(rig.pager().stats().spaces, 1u);
    EXPECT_EQ(rig.pager().stats().installed_pages, kPages - 100);
    second.go();
    EXPECT_EQ(second.wait(), 0) << "dropped at " << when;
  }
}

TEST_F(PagerStandby, AProcessOfTheStandbyThatEndsIsAFailureAndNeverRefreshed) {
  StoreProvider provider(64u << 20, {});
  put(provider, {{0, kPages}}, 1);
  PagerRig rig(provider);
  rig.expect_failures();
  auto toy = restore(rig, true);
  ASSERT_TRUE(restored_right());
  fence(rig);
  ASSERT_TRUE(eventually([&] { return rig.staged(); }));
  toy.reset();
  put(provider, {{0, 10}}, 2);
  provider.seal(kSpace, PageSet::from_runs({{kToyPage, kPages}}), {}, 3);
  rig.pager().notice_sealed();
  ASSERT_TRUE(eventually([&] { return rig.failures() != 0; }));
  EXPECT_FALSE(rig.refreshed());
  rig.pager().drop_standby();
  EXPECT_TRUE(eventually([&] { return rig.dropped(); }));
}

TEST_F(PagerStandby, ComesBeforeTheMapAndBeforeAnyTask) {
  StoreProvider provider(64u << 20, {});
  put(provider, {{0, 10}}, 1);
  PagerRig rig(provider);
  auto toy = std::make_unique<Toy>(rig.criu(), kSpace, kPages, [] { return 0; });
  rig.take_tasks(1);
  EXPECT_FALSE(rig.pager().standby());
  toy.reset();
  StoreProvider sealed(64u << 20, {});
  put(sealed, {{0, 10}}, 1);
  sealed.seal(kSpace, PageSet::from_runs({{kToyPage, 10}}), {}, 1);
  PagerRig late(sealed);
  EXPECT_FALSE(late.pager().standby());
}

}  // namespace
}  // namespace mose::test
