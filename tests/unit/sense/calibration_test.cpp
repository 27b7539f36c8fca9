// SPDX-License-Identifier: MIT
// What tracking costs here: measured, kept as a text, and decided by.
#include "sense/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include "kernel/probe.h"

namespace mose::sense {
namespace {

using testing::HasSubstr;

double thread_cpu_ms() {
  timespec used{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) * 1e3 + static_cast<double>(used.tv_nsec) / 1e6;
}

TEST(Calibration, MeasuresThisHostWithoutBeingNoticed) {
  const double before = thread_cpu_ms();
  auto measured = calibrate();
  const double cpu_ms = thread_cpu_ms() - before;
  ASSERT_TRUE(measured) << measured.error().what;
  EXPECT_EQ(measured->host, host_identity());
  EXPECT_GT(measured->copy_us, 0);
  EXPECT_GT(measured->hash_us, 0);
  const bool can = probe("uffd-wp-async").state == ProbeState::yes;
  ASSERT_EQ(measured->fault_us.has_value(), can);
  ASSERT_EQ(measured->scan_us.has_value(), can);
  if (can) {
    EXPECT_GT(*measured->fault_us, *measured->scan_us) << "one is an exception, the other the reading of a bit";
    EXPECT_LT(*measured->scan_us, measured->copy_us);
  }
  EXPECT_LT(cpu_ms, 200) << "said to be 50 where faults are dear";
  std::printf("%s; %.1f ms of processor time\n", describe(*measured).c_str(), cpu_ms);
}

TEST(Calibration, SurvivesItsText) {
  Calibration sent{
      .host = "6.12 #1, A Processor @ 2 GHz", .fault_us = 11.5, .scan_us = 0.004, .copy_us = 0.3, .hash_us = 0.25};
  auto got = calibration_from_text(to_text(sent));
  ASSERT_TRUE(got) << got.error().what;
  EXPECT_EQ(got->host, sent.host);
  EXPECT_EQ(got->fault_us, sent.fault_us);
  EXPECT_EQ(got->scan_us, sent.scan_us);
  EXPECT_EQ(got->copy_us, sent.copy_us);
  EXPECT_EQ(got->hash_us, sent.hash_us);
  sent.fault_us = sent.scan_us = std::nullopt;
  got = calibration_from_text(to_text(sent));
  ASSERT_TRUE(got) << got.error().what;
  EXPECT_FALSE(got->fault_us);
  EXPECT_FALSE(got->scan_us);
}

TEST(Calibration, WhatIsNoneIsRefused) {
  const std::string head = "mose.calibration/1\nhost h\ncopy_us 1\n";
  ASSERT_TRUE(calibration_from_text(head + "hash_us 1\nfault_us 2\nend\n"));
  const std::string bad[] = {
      "",
      "\n\n",
      "mose.calibration/2\nhost h\ncopy_us 1\nhash_us 1\nend\n",
      head + "end\n",
      head + "hash_us -1\nend\n",
      head + "hash_us 0\nend\n",
      head + "hash_us nan\nend\n",
      head + "hash_us inf\nend\n",
      head + "hash_us 1x\nend\n",
      head + "hash_us 1\nfault_us \nend\n",
  };
  for (const std::string& text : bad) EXPECT_FALSE(calibration_from_text(text)) << text;
}

TEST(Calibration, ATextThatIsCutOffIsRefused) {
  const std::string whole = to_text({.host = "h", .fault_us = 2, .scan_us = 0.1, .copy_us = 1, .hash_us = 1});
  // All but the last line's end.
  for (size_t length = 0; length + 1 < whole.size(); ++length)
    EXPECT_FALSE(calibration_from_text(whole.substr(0, length))) << whole.substr(0, length);
}

TEST(Calibration, DecidesByWhatIsCheaper) {
  TrackingChoice dear =
      choose_tracking(Calibration{.host = "h", .fault_us = 12, .scan_us = 0.01, .copy_us = 0.3, .hash_us = 0.2});
  EXPECT_TRUE(dear.late);
  EXPECT_TRUE(dear.dear);
  EXPECT_THAT(dear.reason,
              HasSubstr("a write fault costs 12.00 us here, a hashed page 0.50 us: protected for the last rounds only"));
  TrackingChoice cheap =
      choose_tracking(Calibration{.host = "h", .fault_us = 0.4, .scan_us = 0.01, .copy_us = 0.3, .hash_us = 0.2});
  EXPECT_FALSE(cheap.late);
  EXPECT_FALSE(cheap.dear);
  TrackingChoice between =
      choose_tracking(Calibration{.host = "h", .fault_us = 0.7, .scan_us = 0.01, .copy_us = 0.3, .hash_us = 0.2});
  EXPECT_TRUE(between.late);
  EXPECT_FALSE(between.dear) << "the final scan takes more for a page";
  EXPECT_THAT(cheap.reason, HasSubstr("from the first round on"));
  TrackingChoice none = choose_tracking(Calibration{.host = "h", .copy_us = 0.3, .hash_us = 0.2});
  EXPECT_TRUE(none.late);
  EXPECT_THAT(none.reason, HasSubstr("cannot be protected"));
  EXPECT_TRUE(choose_tracking(std::nullopt).late);
}

}  // namespace
}  // namespace mose::sense
