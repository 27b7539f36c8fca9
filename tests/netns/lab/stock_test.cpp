// SPDX-License-Identifier: MIT
// The baseline from end to end: a live Redis moved by CRIU's own command line there and back, under load.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bed.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kLab = "t-lab-stock";

TEST(StockCold, MovesALiveRedisThereAndBack) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  CommandLine line;
  line.lab = kLab;
  line.baseline_only = true;
  line.baselines = {"stock-cold"};
  line.megabytes = 2;
  line.connections = 3;
  line.repeat = 2;
  Json report = test::report_of(line);
  ASSERT_EQ(report["runs"].size(), 2u);
  EXPECT_EQ(report["runs"][0]["destination_node"], "b");
  EXPECT_EQ(report["runs"][1]["destination_node"], "a");
  for (const Json& run : report["runs"]) {
    for (const char* bad : {"errors", "resets", "lost", "duplicated", "reordered"}) EXPECT_EQ(run["client"][bad], 0) << bad;
    EXPECT_TRUE(run["service_interruption_ms"].is_number());
    EXPECT_TRUE(run["downtime_ms"].is_null()) << "CRIU does not tell when it lets the tree run";
  }
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty()) << "a lab that the run made goes with it";
}

}  // namespace
}  // namespace mose::lab
