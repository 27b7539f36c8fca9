// SPDX-License-Identifier: MIT
#include "kernel/receive_backlog.h"

#include <gtest/gtest.h>

namespace mose {
namespace {

using Waiting = std::vector<unsigned>;

TEST(ReceiveBacklog, ReadsTheLengthOfEachCpu) {
  auto waiting = parse_receive_backlog(
      "00605742 00000000 00000008 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000001f 00000000 00000010 0000000f\n"
      "005b34f9 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001\n");
  ASSERT_TRUE(waiting) << waiting.error().what;
  EXPECT_EQ(*waiting, (Waiting{31, 0}));
}

TEST(ReceiveBacklog, DoesNotTakeAMissingColumnForEmptyQueues) {
  EXPECT_FALSE(parse_receive_backlog("00605742 00000000 00000008 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n"));
  EXPECT_FALSE(parse_receive_backlog("0 0 0 0 0 0 0 0 0 0 0 zz 0\n"));
  EXPECT_FALSE(parse_receive_backlog(""));
}

TEST(ReceiveBacklog, IsSeenEmptyOnThisHost) {
  auto taken = wait_receive_backlog(std::chrono::seconds(10));
  ASSERT_TRUE(taken) << taken.error().what;
  EXPECT_TRUE(*taken);
}

}  // namespace
}  // namespace mose
