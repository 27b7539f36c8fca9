// SPDX-License-Identifier: MIT
#include "client/interruption.h"

#include <gtest/gtest.h>

#include "answers.h"

namespace mose::client {
namespace {

std::optional<int64_t> longest_gap_ns(std::span<const int64_t> answers, Window window) {
  auto gap = longest_gap(answers, window);
  return gap ? std::optional(gap->length_ns()) : std::nullopt;
}

// An answer each millisecond from 0 to 10 s, with none in (from, to).
std::vector<int64_t> answers_with_gap(int64_t from_ms, int64_t to_ms) {
  std::vector<int64_t> out;
  for (int64_t ms = 0; ms <= 10'000; ++ms) {
    if (ms <= from_ms || ms >= to_ms) out.push_back(ms * kMs);
  }
  return out;
}

TEST(Interruption, IsTheLongestGapLessWhatIsNormal) {
  auto answers = answers_with_gap(6000, 6150);
  Window window{5990 * kMs, 7000 * kMs};
  EXPECT_EQ(longest_gap_ns(answers, window), 150 * kMs);
  EXPECT_EQ(longest_gap(answers, window), (Window{6000 * kMs, 6150 * kMs})) << "and where it lay";
  EXPECT_EQ(quiet_gap_p99(answers, window), 1 * kMs);
  EXPECT_EQ(interruption(answers, window), 149 * kMs);
}

TEST(Interruption, GapCountsWhenAnyPartLiesInTheWindow) {
  auto answers = answers_with_gap(5900, 6100);
  EXPECT_EQ(longest_gap_ns(answers, {6000 * kMs, 7000 * kMs}), 200 * kMs) << "began before";
  EXPECT_EQ(longest_gap_ns(answers, {5000 * kMs, 6000 * kMs}), 200 * kMs) << "ends after";
  EXPECT_EQ(longest_gap_ns(answers, {6200 * kMs, 7000 * kMs}), 1 * kMs) << "over before";
  EXPECT_EQ(longest_gap_ns(answers, {4000 * kMs, 5000 * kMs}), 1 * kMs) << "comes later";
}

TEST(Interruption, GapWithoutAnEndHasNoLength) {
  auto answers = answers_with_gap(6000, 20'000);
  EXPECT_EQ(longest_gap_ns(answers, {5990 * kMs, 9000 * kMs}), std::nullopt);
  EXPECT_EQ(interruption(answers, {5990 * kMs, 9000 * kMs}), std::nullopt);
}

TEST(Interruption, NothingBeforeTheWindowMeansUnknown) {
  auto answers = answers_with_gap(6000, 6150);
  EXPECT_EQ(longest_gap_ns(answers, {-5, 7000 * kMs}), std::nullopt);
  EXPECT_EQ(interruption(answers, {20 * kMs, 7000 * kMs}), std::nullopt) << "too few quiet gaps";
  EXPECT_EQ(longest_gap_ns({}, {0, 1}), std::nullopt);
}

TEST(Interruption, IsNeverNegative) {
  std::vector<int64_t> answers;
  for (int64_t i = 0; i < 600; ++i) answers.push_back(i * 10 * kMs);             // 10 ms apart until 6 s
  for (int64_t i = 0; i < 2000; ++i) answers.push_back(6000 * kMs + i * kMs);    // then 1 ms apart
  EXPECT_EQ(interruption(answers, {6100 * kMs, 6200 * kMs}), 0);
}

TEST(Interruption, OnlyTheFiveSecondsBeforeAreNormal) {
  auto answers = answers_with_gap(500, 900);
  EXPECT_EQ(quiet_gap_p99(answers, {6000 * kMs, 7000 * kMs}), 1 * kMs);
}

TEST(Quantile, IsTheValueAtItsRank) {
  std::vector<int64_t> v{5, 1, 4, 2, 3};
  EXPECT_EQ(quantile(v, 0.5), 3);
  EXPECT_EQ(quantile(v, 0.99), 5);
  EXPECT_EQ(quantile(v, 0.0), 1);
  EXPECT_EQ(quantile(v, 1.0), 5);
  std::vector<int64_t> none;
  EXPECT_EQ(quantile(none, 0.5), std::nullopt);
}

}  // namespace
}  // namespace mose::client
