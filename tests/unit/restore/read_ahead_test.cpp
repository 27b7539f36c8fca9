// SPDX-License-Identifier: MIT
#include "restore/read_ahead.h"

#include <gtest/gtest.h>

namespace mose::restore {
namespace {

TEST(ReadAhead, NearNothingComesWithAPageThatFollowsNone) {
  ReadAhead ahead(7, 15);
  for (uint64_t page : {1000, 5, 90000, 400, 1002, 3}) EXPECT_EQ(ahead.behind(page, false), 0u) << page;
}

TEST(ReadAhead, WhoGoesOnInOrderGetsMoreWithEveryStepUpToTheMost) {
  ReadAhead ahead(7, 15);
  EXPECT_EQ(ahead.behind(100, false), 0u);
  EXPECT_EQ(ahead.behind(101, false), 2u);   // 101 and 102, 103
  EXPECT_EQ(ahead.behind(104, false), 6u);   // up to 110
  EXPECT_EQ(ahead.behind(108, false), 14u);  // within: it was not waited for
  EXPECT_EQ(ahead.behind(123, false), 15u);
  EXPECT_EQ(ahead.behind(139, false), 15u);
  EXPECT_EQ(ahead.behind(138, false), 0u) << "that is not forward";
}

TEST(ReadAhead, FarSomeComeWithEveryPage) {
  ReadAhead ahead(7, 15);
  EXPECT_EQ(ahead.behind(100, true), 7u);
  EXPECT_EQ(ahead.behind(5000, true), 7u);
  EXPECT_EQ(ahead.behind(5008, true), 15u);
}

TEST(ReadAhead, EightGoTheirWaysSideBySide) {
  ReadAhead ahead(7, 15);
  for (uint64_t i = 0; i < 8; ++i) EXPECT_EQ(ahead.behind(i * 100000, false), 0u);
  for (uint64_t i = 0; i < 8; ++i) EXPECT_EQ(ahead.behind(i * 100000 + 1, false), 2u) << i;
}

}  // namespace
}  // namespace mose::restore
