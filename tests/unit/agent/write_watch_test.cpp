// SPDX-License-Identifier: MIT
// A migration forecasts its rounds on any host, and says why it does not know who writes where it does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agent/write_watch.h"
#include "kernel/probe.h"

namespace mose::agent {
namespace {

Timestamp at(int64_t milliseconds) {
  return Timestamp(std::chrono::milliseconds(milliseconds));
}

class WriteWatchTest : public testing::Test {
 protected:
  ~WriteWatchTest() override { unforce_probes(); }
};

TEST_F(WriteWatchTest, ForecastsWithoutTracepointsAndNamesThem) {
  force_probe("btf", ProbeState::yes);
  force_probe("page-fault-tracepoints", ProbeState::no);
  WriteWatch watch;
  watch.attach("/sys/fs/cgroup/mose/redis");
  watch.begin_round();
  watch.sample();
  watch.end_round(1, at(1000), at(2000), 50000, 50000, false);
  watch.begin_round();
  watch.sample();
  watch.end_round(2, at(2000), at(2200), 3000, 50000, true);
  watch.stopped(at(2300), 800);
  FinalPages pages{.spaces = {{.space = 7, .remote = PageSet::from_runs({{0, 1000}})}}, .stats = {}};
  watch.mark_hot(pages);
  EXPECT_TRUE(pages.spaces[0].hot.empty());
  watch.end();
  Report report;
  report.precopy.windows.resize(1);  // of the peer's part
  watch.fill(report);
  ASSERT_EQ(report.precopy.windows.size(), 2u);
  EXPECT_EQ(report.precopy.windows[0].round, 2u);
  EXPECT_EQ(report.precopy.windows[0].window_ms, 600);
  EXPECT_FALSE(report.precopy.windows[0].forecast_pages);
  EXPECT_EQ(report.precopy.windows[1].round, 3u);
  EXPECT_EQ(report.precopy.windows[1].window_ms, 200);
  EXPECT_EQ(report.precopy.windows[1].pages, 800u);
  // By one window of 600 ms: between its third and the whole.
  ASSERT_TRUE(report.precopy.windows[1].forecast_pages);
  EXPECT_GT(*report.precopy.windows[1].forecast_pages, 1000);
  EXPECT_LT(*report.precopy.windows[1].forecast_pages, 3000);
  EXPECT_EQ(report.tracking.ebpf, "");
  EXPECT_THAT(report.tracking.ebpf_reason, testing::StartsWith("page-fault-tracepoints: "));
  EXPECT_FALSE(report.tracking.ebpf_events);
  EXPECT_TRUE(report.tracking.processes.empty());
}

TEST_F(WriteWatchTest, PagesThatComeAgainAreHotterTheMoreOften) {
  force_probe("btf", ProbeState::no);
  WriteWatch watch;
  watch.attach("/sys/fs/cgroup/mose/redis");
  unsigned rounds = 0;
  auto round = [&](std::vector<PageRun> runs) {
    watch.begin_round();
    for (const PageRun& run : runs) watch.sent(7, std::span(&run, 1));
    ++rounds;
    watch.end_round(rounds, at(1000 * rounds), at(1000 * rounds + 500), 10, 1000, false);
  };
  round({{0, 1000}});
  round({{500, 10}, {100, 10}});
  EXPECT_TRUE(watch.heat().empty()) << "what is sent for the first time was not written";
  round({{505, 10}});
  ASSERT_EQ(watch.heat().size(), 1u);
  EXPECT_EQ(watch.heat()[0].space, 7u);
  EXPECT_EQ(watch.heat()[0].levels, std::vector<PageSet>{PageSet::from_runs({{100, 10}, {500, 10}})});
  round({});
  ASSERT_EQ(watch.heat().size(), 1u);
  ASSERT_EQ(watch.heat()[0].levels.size(), 2u);
  EXPECT_EQ(watch.heat()[0].levels[0], PageSet::from_runs({{505, 5}}));
  EXPECT_EQ(watch.heat()[0].levels[1], PageSet::from_runs({{100, 10}, {500, 5}, {510, 5}}));
  for (int i = 0; i < PageHeat::kRounds; ++i) round({});
  watch.begin_round();
  EXPECT_TRUE(watch.heat().empty()) << "what nobody writes any more cools down";
}

TEST_F(WriteWatchTest, SaysWhatWentWrong) {
  force_probe("btf", ProbeState::yes);
  force_probe("page-fault-tracepoints", ProbeState::yes);
  WriteWatch watch;
  watch.attach("/no/such/group");
  watch.end();
  Report report;
  watch.fill(report);
  EXPECT_EQ(report.tracking.ebpf, "");
  EXPECT_THAT(report.tracking.ebpf_reason, testing::HasSubstr("/no/such/group"));
}

TEST_F(WriteWatchTest, AWorkloadThatIsNotPrecopiedIsNotWatched) {
  Report report;
  WriteWatch().fill(report);
  EXPECT_TRUE(report.precopy.windows.empty());
  EXPECT_EQ(report.tracking.ebpf_reason, "no memory was sent while the workload ran");
}

}  // namespace
}  // namespace mose::agent
