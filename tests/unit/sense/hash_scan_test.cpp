// SPDX-License-Identifier: MIT
#include "sense/hash_scan.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <map>

namespace mose::sense {
namespace {

// Remembers the last contents sent for each page.
class Recorder : public PageSink {
 public:
  Status send_pages(SpaceId, std::span<const PageRun> runs, std::span<const std::span<const std::byte>> pieces) override {
    if (fail_next) {
      fail_next = false;
      return fail("refused");
    }
    EXPECT_EQ(runs.size(), pieces.size());
    uint64_t total = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      EXPECT_EQ(pieces[i].size(), runs[i].count * kPageSize);
      total += runs[i].count;
      for (uint64_t n = 0; n < runs[i].count; ++n) {
        // Keeping everything would keep what is kept.
        if (runs[i].first + n < kept.first || runs[i].first + n >= kept.end()) continue;
        auto bytes = pieces[i].subspan(n * kPageSize, kPageSize);
        pages[runs[i].first + n].assign(bytes.begin(), bytes.end());
        last_round.add({runs[i].first + n, 1});
        order.push_back(runs[i].first + n);
      }
    }
    EXPECT_LE(total, kPagesPerSendMax);
    if (after_send) after_send();
    return {};
  }
  PageRun kept;
  std::map<uint64_t, std::vector<std::byte>> pages;
  PageSet last_round;
  std::vector<uint64_t> order;
  bool fail_next = false;
  std::function<void()> after_send;
};

// A region of our own memory; the scan looks at all of us, the tests at the region only.
class HashScanOfOurselves : public testing::Test {
 protected:
  static constexpr uint64_t kPages = 1200;  // more than two reads
  void SetUp() override {
    at_ = static_cast<std::byte*>(mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(at_, MAP_FAILED);
    first_ = reinterpret_cast<uint64_t>(at_) / kPageSize;
    for (uint64_t i = 0; i < kPages; ++i) fill(i, static_cast<int>(i % 250 + 1));
    recorder_.kept = {first_, kPages};
  }
  void TearDown() override { munmap(at_, kPages * kPageSize); }
  void fill(uint64_t page, int value) { memset(at_ + page * kPageSize, value, kPageSize); }
  PageSet region() { return PageSet::from_runs({{first_, kPages}}); }
  PageSet pages(std::vector<PageRun> runs) {
    for (PageRun& run : runs) run.first += first_;
    return PageSet::from_runs(std::move(runs));
  }
  PageSet round(HashScan& scan) {
    recorder_.last_round = {};
    auto stats = scan.round(processes_, recorder_, {});
    EXPECT_TRUE(stats) << stats.error().what;
    return recorder_.last_round.intersect(region());
  }
  SpacePages final(HashScan& scan) {
    auto result = scan.final_scan(processes_);
    EXPECT_TRUE(result) << result.error().what;
    EXPECT_EQ(result->spaces.size(), 1u);
    return result->spaces.front();
  }
  std::byte* at_ = nullptr;
  uint64_t first_ = 0;
  Recorder recorder_;
  std::vector<SpaceProcess> processes_{{7, getpid(), 0}};
};

// By one thread, so that the order is that of the units.
TEST_F(HashScanOfOurselves, WhatIsHotIsReadLastAndTheHottestAtTheEnd) {
  HashScan scan({.round_threads = 1});
  const PageSet hottest = pages({{700, 3}}), warm = pages({{0, 10}, {702, 2}});
  const std::vector<SpaceHeat> heat{{processes_[0].space, {hottest, warm}}, {99, {pages({{100, 50}})}}};
  scan.read_last(heat);
  EXPECT_EQ(round(scan), region()) << "in another order, and all the same everything";
  ASSERT_EQ(recorder_.order.size(), kPages);
  std::vector<uint64_t> expected;
  for (uint64_t page = first_; page < first_ + kPages; ++page) {
    if (!hottest.contains(page) && !warm.contains(page)) expected.push_back(page);
  }
  for (uint64_t page : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 703, 700, 701, 702}) expected.push_back(first_ + page);
  EXPECT_EQ(recorder_.order, expected);
}

TEST_F(HashScanOfOurselves, FirstRoundSendsAllThenOnlyWhatChanged) {
  HashScan scan;
  EXPECT_EQ(round(scan), region());
  EXPECT_EQ(round(scan), PageSet{});
  fill(3, 77);
  fill(4, 78);
  at_[900 * kPageSize + 4095] ^= std::byte{1};
  EXPECT_EQ(round(scan), pages({{3, 2}, {900, 1}}));
  for (uint64_t i = 0; i < kPages; ++i) {
    EXPECT_EQ(memcmp(recorder_.pages[first_ + i].data(), at_ + i * kPageSize, kPageSize), 0) << i;
  }
}

TEST_F(HashScanOfOurselves, FinalScanNamesWhatIsNewSinceItWasSent) {
  HashScan scan;
  round(scan);
  fill(10, 99);
  SpacePages result = final(scan);
  EXPECT_EQ(result.present.intersect(region()), region());
  EXPECT_EQ(result.remote.intersect(region()), pages({{10, 1}}));
  EXPECT_TRUE(result.remote.minus(result.present).empty());
  EXPECT_TRUE(result.first.minus(result.remote).empty());
}

TEST_F(HashScanOfOurselves, WithoutARoundEverythingIsRemote) {
  HashScan scan({.round_threads = 1, .final_threads = 3});
  SpacePages result = final(scan);
  EXPECT_EQ(result.remote, result.present);
  EXPECT_EQ(result.remote.intersect(region()), region());
}

TEST_F(HashScanOfOurselves, ZeroPagesAreAsGoodAsAbsent) {
  HashScan scan;
  fill(5, 0);
  EXPECT_EQ(round(scan), pages({{0, 5}, {6, kPages - 6}}));
  fill(6, 0);
  EXPECT_EQ(round(scan), PageSet{});
  SpacePages result = final(scan);
  EXPECT_EQ(result.present.intersect(region()), pages({{0, 5}, {7, kPages - 7}}));
  EXPECT_EQ(result.remote.intersect(region()), PageSet{});
}

TEST_F(HashScanOfOurselves, ReleasedPagesAreNotPresentAndReturnWithTheirContents) {
  HashScan scan;
  round(scan);
  madvise(at_ + 8 * kPageSize, kPageSize, MADV_DONTNEED);
  EXPECT_EQ(final(scan).present.intersect(region()), pages({{0, 8}, {9, kPages - 9}}));
  fill(8, 200);
  EXPECT_EQ(final(scan).remote.intersect(region()), pages({{8, 1}}));
}

// The page changes after it was read but before the round ends: what counts is what was sent.
TEST_F(HashScanOfOurselves, AChangeDuringARoundIsFoundByTheNext) {
  HashScan scan;
  fill(0, 1);
  recorder_.after_send = [this] {
    if (recorder_.last_round.contains(first_)) fill(0, 2);
  };
  round(scan);
  recorder_.after_send = {};
  EXPECT_EQ(round(scan), pages({{0, 1}}));
  EXPECT_EQ(recorder_.pages[first_][0], std::byte{2});
}

TEST_F(HashScanOfOurselves, WhatTheSinkRefusedCountsAsNotSent) {
  HashScan scan;
  recorder_.fail_next = true;
  EXPECT_FALSE(scan.round(processes_, recorder_, {}));
  EXPECT_EQ(round(scan), region());
}

TEST_F(HashScanOfOurselves, AStopEndsTheRound) {
  HashScan scan;
  std::stop_source stop;
  stop.request_stop();
  auto stats = scan.round(processes_, recorder_, stop.get_token());
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().code, ECANCELED);
}

TEST(HashScan, GoneProcessesAreSkippedInARoundAndAnErrorInTheFinalScan) {
  HashScan scan;
  Recorder recorder;
  std::vector<SpaceProcess> processes{{1, 0x3ffffff, 0}, {2, getpid(), 1}};
  auto stats = scan.round(processes, recorder, {});
  ASSERT_TRUE(stats) << stats.error().what;
  EXPECT_EQ(stats->spaces_gone, 2u);
  EXPECT_FALSE(scan.final_scan(processes));
}

TEST(HashScan, AZombieHasNoPages) {
  pid_t child = fork();
  if (child == 0) _exit(0);
  HashScan scan;
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
  auto result = scan.final_scan(std::vector<SpaceProcess>{{1, child, 0}});
  ASSERT_TRUE(result) << result.error().what;
  EXPECT_TRUE(result->spaces.front().present.empty());
}

}  // namespace
}  // namespace mose::sense
