// SPDX-License-Identifier: MIT
// The operator's choice of a dirty source, on hosts that have it and hosts that do not.
#include "sense/tracker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fd.h"
#include "kernel/probe.h"

namespace mose::sense {
namespace {

using testing::HasSubstr;

class TrackerChoice : public testing::Test {
 protected:
  ~TrackerChoice() override { unforce_probes(); }
};

TEST_F(TrackerChoice, IsTakenWhereTheHostHasIt) {
  force_probe("uffd-wp-async", ProbeState::yes);
  for (Tracker tracker : {Tracker::automatic, Tracker::write_protection, Tracker::write_protection_early, Tracker::hash}) {
    EXPECT_TRUE(can_track(tracker)) << to_string(tracker);
  }
}

TEST_F(TrackerChoice, IsRefusedWithTheReasonWhereTheHostLacksIt) {
  force_probe("uffd-wp-async", ProbeState::no);
  force_probe("soft-dirty", ProbeState::no);
  for (Tracker tracker : {Tracker::write_protection, Tracker::write_protection_early, Tracker::soft_dirty}) {
    auto can = can_track(tracker);
    ASSERT_FALSE(can) << to_string(tracker);
    EXPECT_THAT(can.error().what, HasSubstr("--tracker " + std::string(to_string(tracker)) + " on this host: forced for a test"));
  }
  EXPECT_TRUE(can_track(Tracker::automatic));
  EXPECT_TRUE(can_track(Tracker::hash));
}

TEST_F(TrackerChoice, SoftDirtyIsNotUsedEvenWhereTheKernelHasIt) {
  force_probe("soft-dirty", ProbeState::yes);
  auto can = can_track(Tracker::soft_dirty);
  ASSERT_FALSE(can);
  EXPECT_THAT(can.error().what, HasSubstr("this version makes no use of it"));
}

TEST_F(TrackerChoice, MakesWhatWasAskedFor) {
  EXPECT_NE(dynamic_cast<HashScan*>(make_source(Tracker::hash, {}).get()), nullptr);
  EXPECT_NE(dynamic_cast<WriteScan*>(make_source(Tracker::write_protection, {}).get()), nullptr);
  EXPECT_NE(dynamic_cast<WriteScan*>(make_source(Tracker::automatic, {}).get()), nullptr);
}

// Kernels that have it mark the mappings of a process that has never been reset.
TEST(SoftDirtyProbe, AgreesWithWhatTheKernelSaysOfMappings) {
  auto smaps = read_file("/proc/self/smaps", 64u << 20);
  ASSERT_TRUE(smaps);
  if (smaps->find("VmFlags:") == std::string::npos) GTEST_SKIP() << "this kernel tells no flags of mappings";
  EXPECT_EQ(probe("soft-dirty").state, smaps->find(" sd ") != std::string::npos ? ProbeState::yes : ProbeState::no)
      << probe("soft-dirty").detail;
}

}  // namespace
}  // namespace mose::sense
