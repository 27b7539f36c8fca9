// SPDX-License-Identifier: MIT
#include "kernel/time_slice.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <thread>

#include "base/fd.h"
#include "kernel/in_background.h"
#include "kernel/lock_turns.h"
#include "kernel/spawn.h"

namespace mose {
namespace {

constexpr uint64_t kShortest = 100'000;

// Each on a thread of its own, which ends with it.
class TimeSlice : public ::testing::Test {
 protected:
  template <typename Act>
  void with_short_slices(Act act) {
    std::jthread([&] {
      usual_ = time_slice_ns(0);
      take_short_slices();
      known_ = time_slice_ns(0) != 0;
      if (known_) act();
    }).join();
    if (!known_) GTEST_SKIP() << "this kernel knows no slices of threads (Linux 6.12)";
  }
  uint64_t usual_ = 0;
  bool known_ = false;
};

TEST_F(TimeSlice, IsThatOfTheThreadsThatAreStartedByOneThatTookShortOnes) {
  with_short_slices([this] {
    EXPECT_EQ(time_slice_ns(0), kShortest);
    EXPECT_GT(usual_, kShortest);
    std::jthread([] { EXPECT_EQ(time_slice_ns(0), kShortest); }).join();
  });
}

TEST_F(TimeSlice, IsWhatItWasBehindAnotherPolicy) {
  with_short_slices([] {
    {
      const Unpreempted first;
      if (!first.granted()) GTEST_SKIP() << "no real-time policy is allowed here";
    }
    EXPECT_EQ(time_slice_ns(0), kShortest);
    InBackground background;
    background.begin();
    background.end();
    EXPECT_EQ(time_slice_ns(0), kShortest);
  });
}

TEST_F(TimeSlice, OfAnotherProgramIsTheKernels) {
  with_short_slices([this] {
    auto in = make_pipe();
    ASSERT_TRUE(in);
    auto child = spawn({.program = "/bin/cat", .arguments = {}, .environment = {}, .fds = {{in->read.get(), 0}}});
    ASSERT_TRUE(child) << child.error().what;
    EXPECT_EQ(time_slice_ns(child->pid()), usual_);
    EXPECT_EQ(time_slice_ns(0), kShortest) << "and its own stays";
    in->write.reset();
    EXPECT_TRUE(child->reap(std::chrono::seconds(5)));
  });
}

}  // namespace
}  // namespace mose
