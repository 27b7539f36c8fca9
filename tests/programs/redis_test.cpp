// SPDX-License-Identifier: MIT
// Redis, moved ten times under a load that reads back every acknowledged write after each.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "bed.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

constexpr const char* kRedisLab = "t-program-redis";

TEST(RedisMoves, KeepEveryAcknowledgedWrite) {
  constexpr uint32_t kMoves = 10;
  Fd turn = test::take_turn(kRedisLab);
  test::need_criu_and_redis();
  CommandLine line;
  line.lab = kRedisLab;
  line.repeat = kMoves;
  const auto report = test::report_of(line);
  ASSERT_EQ(report["runs"].size(), kMoves);
  uint64_t requests = 0, errors = 0;
  unsigned standbys = 0;
  for (const auto& run : report["runs"]) {
    EXPECT_EQ(run["outcome"], "complete");
    EXPECT_EQ(run["verified"], true) << run["client"];
    requests += run["client"]["requests"].get<uint64_t>();
    standbys += run["standby"]["used"] == true ? 1 : 0;
    for (const char* bad : {"errors", "resets", "lost", "duplicated", "reordered"})
      errors += run["client"][bad].get<uint64_t>();
  }
  EXPECT_EQ(errors, 0u);
  ASSERT_EQ(report["summary"]["groups"].size(), 1u) << report["summary"];
  const auto& downtime = report["summary"]["groups"][0]["figures"]["downtime_ms"];
  std::printf(
      "| redis | %u moves, %u by a standby | downtime median %.1f ms, max %.1f ms | %lu answers | %lu errors |\n",
      kMoves, standbys, downtime["median"].get<double>(), downtime["max"].get<double>(), requests, errors);
  EXPECT_THAT(test::traces(kRedisLab), ::testing::IsEmpty());
}

}  // namespace
}  // namespace mose::lab
