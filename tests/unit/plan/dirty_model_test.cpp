// SPDX-License-Identifier: MIT
// The dirty page model against writers whose pages are written at rates that are known: it is given what windows of
// some lengths would show, and asked for lengths that it has not seen. Inside of the lengths seen it must be close, at
// three times the longest it may be off by what no observation decides; the tolerances are those.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "plan/dirty_model.h"

namespace mose::plan {
namespace {

Nanoseconds seconds(double value) {
  return Nanoseconds(static_cast<int64_t>(value * 1e9));
}

// Writes per second of each page.
using Writer = std::vector<double>;

double expected_pages(const Writer& writer, double window) {
  double sum = 0;
  for (double rate : writer) sum += -std::expm1(-rate * window);
  return sum;
}

// One run: which pages were written is chance.
uint64_t seen_pages(const Writer& writer, double window, std::mt19937_64& random) {
  std::uniform_real_distribution<double> uniform(0, 1);
  uint64_t pages = 0;
  for (double rate : writer) pages += uniform(random) < -std::expm1(-rate * window) ? 1 : 0;
  return pages;
}

Writer uniform_writer(size_t pages, size_t of, double writes) {
  Writer writer(of, 0);
  std::fill_n(writer.begin(), pages, writes / static_cast<double>(pages));
  return writer;
}
Writer zipf_writer(size_t pages, double writes) {
  Writer writer(pages);
  double sum = 0;
  for (size_t i = 0; i < pages; ++i) sum += writer[i] = 1 / static_cast<double>(i + 1);
  for (double& rate : writer) rate *= writes / sum;
  return writer;
}
Writer hot_and_cold(size_t hot, double hot_writes, size_t cold, double cold_writes) {
  Writer writer = uniform_writer(hot, hot, hot_writes);
  Writer rest = uniform_writer(cold, cold, cold_writes);
  writer.insert(writer.end(), rest.begin(), rest.end());
  return writer;
}

struct Row {
  const char* name;
  Writer writer;
  double inside, beyond;  // relative error within the lengths seen, and at three times the longest
};
std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name;
}

class DirtyModelWriter : public testing::TestWithParam<Row> {};

TEST_P(DirtyModelWriter, IsForecastFromFourWindows) {
  const Row& row = GetParam();
  for (unsigned run = 1; run <= 10; ++run) {
    std::mt19937_64 random(run);
    DirtyModel model;
    model.set_pages(row.writer.size());
    for (double window : {1.0, 0.5, 0.25, 0.4}) model.observe(seconds(window), seen_pages(row.writer, window, random));
    for (double window : {0.3, 0.7, 1.0}) {
      double truth = expected_pages(row.writer, window);
      EXPECT_NEAR(*model.pages_in(seconds(window)), truth, truth * row.inside) << window << " s, run " << run;
    }
    double truth = expected_pages(row.writer, 3);
    EXPECT_NEAR(*model.pages_in(seconds(3)), truth, truth * row.beyond) << "run " << run;
  }
}

// A rate N/T, which is what the model is instead of, is far off for every writer that comes back to its pages.
TEST_P(DirtyModelWriter, ARateWouldNotDo) {
  const Row& row = GetParam();
  double by_rate = expected_pages(row.writer, 0.25) / 0.25 * 3;
  double truth = expected_pages(row.writer, 3);
  const bool hardly_twice = std::string(row.name) == "uniform, sparse";
  EXPECT_EQ(by_rate > truth * 1.5, !hardly_twice);
}

INSTANTIATE_TEST_SUITE_P(Writers, DirtyModelWriter,
                         testing::Values(Row{"uniform, saturating", uniform_writer(10000, 50000, 20000), 0.05, 0.25},
                                         Row{"uniform, sparse", uniform_writer(50000, 50000, 2000), 0.10, 0.30},
                                         Row{"uniform, saturated", uniform_writer(5000, 50000, 500000), 0.05, 0.10},
                                         Row{"zipf", zipf_writer(50000, 100000), 0.05, 0.15},
                                         Row{"hot and cold", hot_and_cold(500, 50000, 49500, 5000), 0.08, 0.30}));

TEST(DirtyModel, KnowsNothingWithoutAWindow) {
  DirtyModel model;
  model.set_pages(1000);
  model.observe(Nanoseconds(0), 5);
  EXPECT_FALSE(model.known());
  EXPECT_FALSE(model.pages_in(seconds(1)));
  EXPECT_FALSE(model.after_round(100, 0, seconds(1)));
}

TEST(DirtyModel, AnIdleWorkloadStaysIdle) {
  DirtyModel model;
  model.set_pages(1000);
  model.observe(seconds(0.1), 0);
  EXPECT_NEAR(*model.pages_in(seconds(10)), 0, 0.01);
}

// One window cannot tell a rate from a working set: the forecast lies between the two.
TEST(DirtyModel, OneWindowForecastsBetweenFlatAndLinear) {
  DirtyModel model;
  model.set_pages(1'000'000);
  model.observe(seconds(0.1), 1000);
  EXPECT_NEAR(*model.pages_in(seconds(0.1)), 1000, 10);
  EXPECT_THAT(*model.pages_in(seconds(0.4)), testing::AllOf(testing::Gt(1300.0), testing::Lt(3000.0)));
  EXPECT_THAT(*model.pages_in(seconds(0.025)), testing::AllOf(testing::Gt(350.0), testing::Lt(750.0)));
}

TEST(DirtyModel, NeverForecastsMoreThanThereIs) {
  DirtyModel model;
  model.set_pages(1200);
  model.observe(seconds(0.1), 1000);
  model.observe(seconds(0.2), 1100);
  EXPECT_LE(*model.pages_in(seconds(1000)), 1200 * 1.001);
  EXPECT_NEAR(*model.pages_in(seconds(0.1)), 1000, 50);
  model.set_pages(700);  // it has shrunk
  EXPECT_LE(*model.pages_in(seconds(1000)), 700 * 1.001);
}

TEST(DirtyModel, GrowsWithTimeAndNeverFallsWhateverWasSeen) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 50; ++round) {
    DirtyModel model;
    model.set_pages(20000);
    for (int i = 0; i < 6; ++i) {
      model.observe(seconds(std::uniform_real_distribution<double>(0.001, 3)(random)), random() % 20000);
    }
    double before = 0;
    for (double window = 0.001; window < 100; window *= 1.5) {
      double pages = *model.pages_in(seconds(window));
      ASSERT_TRUE(std::isfinite(pages));
      ASSERT_GE(pages, before);
      before = pages;
    }
  }
}

TEST(DirtyModel, FollowsAWorkloadThatChanges) {
  DirtyModel model;
  model.set_pages(100000);
  for (int i = 0; i < 5; ++i) model.observe(seconds(0.5), 20000);
  for (int i = 0; i < 8; ++i) model.observe(seconds(0.5), 500);
  EXPECT_NEAR(*model.pages_in(seconds(0.5)), 500, 2000);
}

TEST(DirtyModel, ARoundTakesWhatItsPagesNeedOnTheLink) {
  DirtyModel model;
  model.observe(seconds(1), 1000);
  // 30518 pages are 125 MB: one second at 1 Gbit/s.
  auto round = model.after_round(30518, 1'000'000'000, seconds(0.25));
  ASSERT_TRUE(round);
  EXPECT_NEAR(to_ms(round->duration), 1250, 1);
  EXPECT_DOUBLE_EQ(round->residual, *model.pages_in(round->duration));
  EXPECT_EQ(model.after_round(30518, 0, seconds(0.25))->duration, seconds(0.25));
}

// Rounds of an iterative pre-copy at 1 Gbit/s: each as long as what the one before left to send.
TEST(RoundForecaster, IsCloserTheMoreRoundsItHasSeen) {
  const Writer writer = zipf_writer(50000, 200000);
  std::mt19937_64 random(3);
  RoundForecaster forecaster;
  Timestamp at{};
  uint64_t pages = writer.size();
  double window_start = 0;
  for (unsigned round = 1; round <= 6; ++round) {
    const double length = 0.02 + static_cast<double>(pages) * 4096 * 8 / 1e9;
    const Timestamp end = at + seconds(length);
    const double middle = static_cast<double>(at.time_since_epoch().count()) / 1e9 + length / 2;
    if (round > 1) pages = seen_pages(writer, middle - window_start, random);
    forecaster.round(round, at, end, pages, writer.size());
    window_start = middle;
    at = end;
  }
  const double stopped = static_cast<double>(at.time_since_epoch().count()) / 1e9;
  forecaster.stopped(at, seen_pages(writer, stopped - window_start, random));
  const auto& checks = forecaster.checks();
  ASSERT_EQ(checks.size(), 6u);
  EXPECT_EQ(checks[0].round, 2u);
  EXPECT_FALSE(checks[0].forecast) << "nothing had been seen";
  EXPECT_FALSE(checks[0].error());
  for (size_t i = 1; i < checks.size(); ++i) {
    ASSERT_TRUE(checks[i].error()) << i;
    EXPECT_LT(std::abs(*checks[i].error()), i == 1 ? 0.4 : 0.15) << "round " << checks[i].round;
  }
  EXPECT_EQ(checks.back().round, 7u);
}

TEST(RoundForecaster, AWorkloadThatStopsAfterOneRoundHasNoForecast) {
  RoundForecaster forecaster;
  forecaster.round(1, Timestamp(seconds(1)), Timestamp(seconds(2)), 1000, 1000);
  forecaster.stopped(Timestamp(seconds(2.5)), 40);
  ASSERT_EQ(forecaster.checks().size(), 1u);
  EXPECT_EQ(forecaster.checks()[0].window, seconds(1));
  EXPECT_EQ(forecaster.checks()[0].pages, 40u);
  EXPECT_FALSE(forecaster.checks()[0].forecast);
}

// What was counted while the first window was open is a forecast where rounds alone have none.
TEST(RoundForecaster, CountsFromTheSideMakeAFirstForecast) {
  const Writer writer = uniform_writer(2000, 10000, 40000);
  RoundForecaster forecaster;
  forecaster.round(1, Timestamp(seconds(1)), Timestamp(seconds(1.2)), 10000, 10000);
  for (double window : {0.01, 0.02, 0.04, 0.08}) {
    forecaster.observe(seconds(window), static_cast<uint64_t>(expected_pages(writer, window)));
  }
  forecaster.stopped(Timestamp(seconds(1.25)), static_cast<uint64_t>(expected_pages(writer, 0.15)));
  ASSERT_TRUE(forecaster.checks()[0].error());
  EXPECT_LT(std::abs(*forecaster.checks()[0].error()), 0.1);
}

}  // namespace
}  // namespace mose::plan
