// SPDX-License-Identifier: MIT
#include "restore/arrivals.h"

#include <gtest/gtest.h>

namespace mose::restore {
namespace {

using std::chrono::milliseconds;

Timestamp at(int ms) { return Timestamp{} + std::chrono::hours(1) + milliseconds(ms); }

// What is left after each millisecond, from 1 on.
Arrivals seen(uint64_t pages, std::initializer_list<uint64_t> left) {
  Arrivals out;
  out.expect(pages, at(0));
  int ms = 0;
  for (uint64_t each : left) out.seen(each, at(++ms));
  return out;
}

TEST(ArrivalsTest, NothingIsKnownBeforeTheFirst) {
  EXPECT_FALSE(Arrivals().pending());
  Arrivals none = seen(1000, {1000, 1000});
  EXPECT_TRUE(none.pending());
  EXPECT_EQ(none.waited(at(40)), milliseconds(40));
  EXPECT_EQ(none.rest(at(40)), Nanoseconds::max());
  none.seen(900, at(50));
  EXPECT_EQ(none.waited(at(60)), milliseconds(10)) << "its time counts from the first";
  EXPECT_EQ(none.rest(at(60)), milliseconds(90));
  none.forget();
  EXPECT_FALSE(none.pending());
}

TEST(ArrivalsTest, ASlowBeginSaysLittleOfTheRest) {
  // Ten in the first milliseconds, beside a dump; then 100 in each.
  const Arrivals late = seen(1000, {998, 996, 994, 992, 990, 990, 890, 790, 690, 590, 490});
  EXPECT_EQ(late.rest(at(11)), Nanoseconds(milliseconds(5)) / 500 * 490) << "by the last five";
}

TEST(ArrivalsTest, AStretchWithoutAnyCountsToTheOneBefore) {
  Arrivals stalled = seen(1000, {998, 996, 994, 992, 990, 990, 890, 790, 690, 590, 490, 490, 490, 490, 490, 490});
  EXPECT_EQ(stalled.rest(at(16)), Nanoseconds(milliseconds(10)) / 500 * 490);
  for (int ms = 17; ms <= 1000; ++ms) stalled.seen(490, at(ms));
  EXPECT_GT(stalled.rest(at(1000)), milliseconds(900)) << "of a source that has died nothing is hoped for";
}

TEST(ArrivalsTest, ThoseThatComeAgainAreNotCountedTwice) {
  Arrivals more = seen(1000, {900, 950});
  EXPECT_EQ(more.come(), 100u);
}

}  // namespace
}  // namespace mose::restore
