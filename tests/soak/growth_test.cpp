// SPDX-License-Identifier: MIT
// What grows with the number of moves is found, and what only jumps is not.
#include "growth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace mose::test {
namespace {

constexpr size_t kWarm = 10;

// Readings 0, 1, 2 ... of one thing at one place.
template <typename F>
std::vector<Growth> judged(const std::string& thing, size_t readings, F&& value) {
  GrowthLog log;
  for (size_t i = 0; i < readings; ++i) log.add("a", {{thing, value(i)}});
  return log.judge(kWarm);
}

TEST(Growth, OneDescriptorInTenMovesIsALeak) {
  auto all = judged("mosed descriptors", 100, [](size_t i) { return 40.0 + static_cast<double>(i / 10); });
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(all[0].grows());
  EXPECT_EQ(to_string(all[0]), "a: mosed descriptors, from 42 to 49 (1 is allowed)");
}

TEST(Growth, TwentyKilobytesAMoveAreALeakAndAHeapThatBreathesIsNone) {
  constexpr double kMega = 1 << 20;
  auto leak = judged("mosed resident bytes", 100, [](size_t i) { return 20 * kMega + static_cast<double>(i) * 20'000; });
  ASSERT_EQ(leak.size(), 1u);
  EXPECT_TRUE(leak[0].grows());
  auto breath = judged("mosed resident bytes", 100, [](size_t i) { return (20 + (i % 3) * 0.4) * kMega; });
  ASSERT_EQ(breath.size(), 1u);
  EXPECT_FALSE(breath[0].grows());
}

TEST(Growth, WhatIsThereNowAndThenIsNone) {
  auto all = judged("mose-pager threads", 100, [](size_t i) { return i % 3 == 0 ? 12.0 : 0.0; });
  ASSERT_EQ(all.size(), 1u);
  EXPECT_FALSE(all[0].grows());
}

TEST(Growth, WhatTheFirstMovesMakeAndKeepIsNone) {
  auto all = judged("of kind pin", 100, [](size_t i) { return static_cast<double>(std::min(i, kWarm)); });
  ASSERT_EQ(all.size(), 1u);
  EXPECT_FALSE(all[0].grows());
}

TEST(Growth, WhatAppearsLateIsSeen) {
  GrowthLog log;
  for (size_t i = 0; i < 60; ++i) log.add("b", i < 30 ? Gauges{} : Gauges{{"zombies", 2.0}});
  auto all = log.judge(kWarm);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(all[0].grows());
  EXPECT_THAT(growth_table(all), ::testing::HasSubstr("GROWS"));
}

TEST(Growth, FewReadingsSayNothing) {
  EXPECT_THAT(judged("zombies", kWarm + 2 * GrowthLog::kWindowMin - 1, [](size_t i) { return static_cast<double>(i); }),
              ::testing::IsEmpty());
}

}  // namespace
}  // namespace mose::test
