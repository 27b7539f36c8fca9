// SPDX-License-Identifier: MIT
// One direction of an emulated link, with a clock of the test's own.
#include "lab/link_queue.h"

#include <gtest/gtest.h>

#include "lab/link_check.h"

namespace mose::lab {
namespace {

constexpr int64_t kMs = 1'000'000, kSecond = 1'000'000'000;
constexpr size_t kFrame = 1500;

LinkShape shape(uint64_t rate_bits_per_s, int64_t delay_ns) {
  return {rate_bits_per_s, delay_ns, link_queue_bytes(rate_bits_per_s)};
}

TEST(LinkQueueTest, AFrameComesOutAfterItsDelay) {
  LinkQueue queue(shape(0, 5 * kMs));
  EXPECT_EQ(queue.next_due_ns(), std::nullopt);
  EXPECT_TRUE(queue.push("one", kFrame, kSecond));
  EXPECT_TRUE(queue.push("two", kFrame, kSecond));
  EXPECT_EQ(queue.next_due_ns(), kSecond + 5 * kMs) << "no rate: both at once";
  EXPECT_EQ(queue.pop(), "one");
  EXPECT_EQ(queue.next_due_ns(), kSecond + 5 * kMs);
  EXPECT_EQ(queue.pop(), "two");
  EXPECT_EQ(queue.next_due_ns(), std::nullopt);
}

TEST(LinkQueueTest, FramesFollowEachOtherAtTheRate) {
  LinkQueue queue(shape(100'000'000, kMs));
  int64_t takes = kFrame * 8 * 10;  // ns at 100 Mbit/s
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(queue.push("x", kFrame, kSecond));
  int64_t first = *queue.next_due_ns(), last = 0;
  for (int i = 0; i < 100; ++i) {
    last = *queue.next_due_ns();
    (void)queue.pop();
  }
  EXPECT_LE(last, kSecond + kMs + 100 * takes);
  EXPECT_GE(last - first, 100 * takes - kLinkBurstNs - takes) << "only what may have waited unread is made up for";
}

TEST(LinkQueueTest, OverASecondTheRateIsKeptWhenTheReaderIsLate) {
  LinkQueue queue(shape(100'000'000, 0));
  // A sender of just the rate, read every 2 ms, as a busy machine does.
  int64_t last = 0;
  size_t bytes = 0;
  for (int64_t at = kSecond; at < 2 * kSecond; at += 2 * kMs) {
    while (bytes * 80 < static_cast<size_t>(at - kSecond + 2 * kMs)) {
      EXPECT_TRUE(queue.push("x", kFrame, at));
      bytes += kFrame;
    }
    for (auto due = queue.next_due_ns(); due && *due <= at; due = queue.next_due_ns()) {
      last = *due;
      (void)queue.pop();
    }
  }
  EXPECT_NEAR(static_cast<double>(bytes) * 8, 100e6, 2e6);
  EXPECT_GE(last, 2 * kSecond - 5 * kMs);
}

TEST(LinkQueueTest, WhatIsMoreThanTheQueueHoldsIsDropped) {
  LinkQueue queue({8'000'000, 0, 50'000});  // a byte per microsecond
  size_t taken = 0;
  while (queue.push(std::string(kFrame, 'x'), kFrame, kSecond)) ASSERT_LT(++taken, 1000u);
  EXPECT_NEAR(static_cast<double>(taken * kFrame), 50'000 + 2'000, kFrame) << "the queue, and the burst";
  EXPECT_EQ(queue.dropped(), 1u);
  EXPECT_TRUE(queue.push(std::string(kFrame, 'x'), kFrame, kSecond + 2 * kMs)) << "the wire has sent some";
  size_t delivered = 0;
  while (queue.next_due_ns()) {
    (void)queue.pop();
    ++delivered;
  }
  EXPECT_EQ(delivered, taken + 1) << "nothing that was taken is lost";
}

TEST(LinkQueueTest, MemoryIsBoundedWithoutARateToo) {
  LinkQueue queue(shape(0, kSecond));
  size_t taken = 0;
  while (queue.push(std::string(1 << 20, 'x'), 1 << 20, kSecond)) ASSERT_LT(++taken, 100u);
  EXPECT_EQ(taken, kLinkBytesMax >> 20);
}

TEST(LinkQueueTest, AQueueIsFiftyMillisecondsOfItsRate) {
  EXPECT_EQ(link_queue_bytes(1'000'000'000), 6'250'000u);
  EXPECT_EQ(link_queue_bytes(1'000'000), kLinkQueueBytesMin) << "room for a few large frames";
  EXPECT_EQ(link_queue_bytes(0), 0u);
}

TEST(LinkQueueTest, SegmentsCountWithTheirHeaders) {
  std::string plain(10 + 100, '\0');
  EXPECT_EQ(wire_bytes(plain), 100u);
  std::string large(10 + 66 + 10'000, '\0');
  large[1] = 1;                        // TCP over IPv4
  large[2] = 66;                       // hdr_len
  large[4] = static_cast<char>(0xe8);  // gso_size 1000
  large[5] = 3;
  EXPECT_EQ(wire_bytes(large), 10'000u + 10 * 66);
  EXPECT_EQ(wire_bytes(""), 0u);
  large[2] = static_cast<char>(0xff);
  large[3] = static_cast<char>(0xff);
  EXPECT_EQ(wire_bytes(large), 10'066u) << "a header longer than its frame is none";
}

TEST(LinkCheck, TheLargerErrorCounts) {
  EXPECT_NEAR(link_error({10, 95}, 100, 10), 0.05, 1e-12);
  EXPECT_NEAR(link_error({12, 99}, 100, 10), 0.2, 1e-12);
  EXPECT_DOUBLE_EQ(link_error({3, std::nullopt}, std::nullopt, std::nullopt), 0);
}

}  // namespace
}  // namespace mose::lab
