// SPDX-License-Identifier: MIT
#include "lab/move_phases.h"

#include <gtest/gtest.h>

#include "model/report.h"

namespace mose::lab {
namespace {

client::PhaseBounds bounds_of(std::vector<TimelineEntry> timeline) {
  Report report;
  report.timeline = std::move(timeline);
  return phase_bounds(to_json(report));
}

TEST(MovePhases, OfAMoveWithAStandby) {
  auto b = bounds_of({{"a", "precopy_1", 10, 20},
                      {"a", "standby_dump", 20, 25},
                      {"a", "precopy_2", 30, 40},
                      {"a", "hold", 50, 51},
                      {"a", "freeze", 51, 52},
                      {"a", "dump", 52, 60},
                      {"a", "commit", 61, 62},
                      {"b", "activate", 62, 64},
                      {"a", "drain", 63, 70},
                      {"a", "kill", 80, 90}});
  EXPECT_EQ(b.precopy_ns, 10'000);
  EXPECT_EQ(b.handover_ns, 50'000);
  EXPECT_EQ(b.resumed_ns, 70'000);
}

TEST(MovePhases, OfAMoveThatStopsFirst) {
  auto b =
      bounds_of({{"a", "dump", 52, 60}, {"a", "transfer", 60, 70}, {"b", "restore", 70, 80}, {"b", "commit", 80, 81}});
  EXPECT_EQ(b.precopy_ns, 0);
  EXPECT_EQ(b.handover_ns, 52'000);
  EXPECT_EQ(b.resumed_ns, 81'000);
}

TEST(MovePhases, WhatIsNotThereIsUnknown) {
  for (const char* report : {"", "[]", "{}", R"({"timeline":[1,{"phase":2}]})"}) {
    auto b = phase_bounds(report);
    EXPECT_EQ(b.precopy_ns + b.handover_ns + b.resumed_ns, 0) << report;
  }
}

}  // namespace
}  // namespace mose::lab
