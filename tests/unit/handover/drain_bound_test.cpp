// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "handover/hold_queue.h"

namespace mose::handover {
namespace {

using std::chrono::milliseconds;
constexpr Nanoseconds kLimit = milliseconds(1600);  // a step of 25 ms

TEST(DrainBound, IsNoneForHalfOfTheLimit) {
  EXPECT_EQ(drain_bound(16000, milliseconds(0), kLimit), 0u);
  EXPECT_EQ(drain_bound(16000, milliseconds(799), kLimit), 0u);
}

TEST(DrainBound, GoesDownByStepsFromWhatWaits) {
  EXPECT_EQ(drain_bound(16000, milliseconds(800), kLimit), 16000u);
  EXPECT_EQ(drain_bound(16000, milliseconds(824), kLimit), 16000u);
  EXPECT_EQ(drain_bound(16000, milliseconds(825), kLimit), 15000u);
  EXPECT_EQ(drain_bound(16000, milliseconds(1000), kLimit), 8000u);
  EXPECT_EQ(drain_bound(16000, milliseconds(1199), kLimit), 1000u);
}

TEST(DrainBound, IsOneInTheEndAndNeverNone) {
  EXPECT_EQ(drain_bound(16000, milliseconds(1200), kLimit), 1u);
  EXPECT_EQ(drain_bound(16000, milliseconds(5000), kLimit), 1u);
  EXPECT_EQ(drain_bound(0, milliseconds(800), kLimit), 1u);
  EXPECT_EQ(drain_bound(10, milliseconds(1199), kLimit), 1u);
}

TEST(DrainBound, OfALimitThatHasNoSteps) {
  EXPECT_EQ(drain_bound(10, Nanoseconds(0), Nanoseconds(0)), 10u);
  EXPECT_EQ(drain_bound(10, milliseconds(1), Nanoseconds(0)), 1u);
  EXPECT_EQ(drain_bound(10, Nanoseconds(20), Nanoseconds(10)), 1u);
}

}  // namespace
}  // namespace mose::handover
