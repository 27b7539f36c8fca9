// SPDX-License-Identifier: MIT
// The lab's own link: never faster and never shorter than what was asked for, whatever the machine does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "bed.h"
#include "lab/link_check.h"
#include "lab/node.h"

namespace mose::lab {
namespace {

constexpr const char* kLab = "t-lab-link";

TEST(Link, HasTheRateAndTheDelay) {
  Fd turn = test::take_turn(kLab);
  LabOptions options = test::bare_lab(kLab);
  options.link_rate_mbit = 40;
  options.link_rtt_ms = 20;
  auto state = up(options);
  ASSERT_TRUE(state) << state.error().what;
  ASSERT_TRUE(state->link);
  Names names(kLab);
  auto figures = measure_link(names, true);
  ASSERT_TRUE(figures) << figures.error().what;
  EXPECT_GE(figures->rtt_ms, 20 * (1 - kLinkErrorMax));
  EXPECT_LE(*figures->rate_mbit, 40 * (1 + kLinkErrorMax));
  EXPECT_GT(*figures->rate_mbit, 4) << "the stream went through, without losses that stop it";

  auto link = open_record(*state->link);
  ASSERT_TRUE(link);
  ASSERT_TRUE(link->signal(SIGKILL));
  ASSERT_TRUE(link->wait_ended(std::chrono::seconds(5)));
  auto again = up(options);
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_NE(again->link->pid, state->link->pid) << "a lab without its link is made anew";
  EXPECT_TRUE(measure_link(names, false));
  EXPECT_TRUE(down(names));
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty());
}

}  // namespace
}  // namespace mose::lab
