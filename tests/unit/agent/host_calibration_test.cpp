// SPDX-License-Identifier: MIT
// What tracking costs is measured once per host and kept; a file that is of no use here is replaced.
#include "agent/host_calibration.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "temp_dir.h"

namespace mose::agent {
namespace {

// No host measures that.
constexpr double kNeverMeasured = 123'456;

sense::Calibration calibration_of(std::string host) {
  return {.host = std::move(host), .copy_us = kNeverMeasured, .hash_us = 1};
}

TEST(HostCalibration, WhatIsKeptIsNotMeasuredAgain) {
  test::TempDir dir;
  dir.write("calibration", to_text(calibration_of(sense::host_identity())));
  auto found = kept_or_measured(dir.path());
  ASSERT_TRUE(found) << found.error().what;
  EXPECT_EQ(found->copy_us, kNeverMeasured);
}

TEST(HostCalibration, WhatIsOfNoUseHereIsReplaced) {
  const std::string good = to_text(calibration_of(sense::host_identity()));
  const std::string useless[] = {to_text(calibration_of("another host")), good.substr(0, good.size() / 2),
                                 std::string(1 << 20, 'x'), ""};
  for (const std::string& text : useless) {
    test::TempDir dir;
    dir.write("calibration", text);
    auto found = kept_or_measured(dir.path());
    ASSERT_TRUE(found) << found.error().what;
    EXPECT_LT(found->copy_us, 1000) << "measured";
    auto kept = sense::calibration_from_text(dir.read("calibration"));
    ASSERT_TRUE(kept) << kept.error().what;
    EXPECT_EQ(kept->host, sense::host_identity());
    EXPECT_NEAR(kept->copy_us, found->copy_us, 1e-6);
    EXPECT_FALSE(std::filesystem::exists(dir.path() + "/calibration.new"));
  }
}

TEST(HostCalibration, IsMeasuredAlsoWhereItCannotBeKept) {
  auto found = kept_or_measured("/proc/no/such/directory");
  ASSERT_TRUE(found) << found.error().what;
  EXPECT_GT(found->copy_us, 0);
}

TEST(HostCalibration, IsTheSameUntilTheProcessEnds) {
  test::TempDir dir;
  auto first = host_calibration(dir.path());
  ASSERT_TRUE(first) << first.error().what;
  dir.write("calibration", to_text(calibration_of(sense::host_identity())));
  auto second = host_calibration(dir.path());
  ASSERT_TRUE(second) << second.error().what;
  EXPECT_EQ(second->copy_us, first->copy_us);
  ASSERT_TRUE(known_calibration());
  EXPECT_EQ(known_calibration()->copy_us, first->copy_us);
}

}  // namespace
}  // namespace mose::agent
