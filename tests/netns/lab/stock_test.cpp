// SPDX-License-Identifier: MIT
// The baselines from end to end: a live Redis moved there and back under load, by CRIU's own command line (cold and lazily) and by MOSE
// with write protection armed in every round.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bed.h"
#include "kernel/probe.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kLab = "t-lab-stock";

class StockCriu : public ::testing::TestWithParam<const char*> {};

TEST_P(StockCriu, MovesALiveRedisThereAndBack) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  CommandLine line;
  line.lab = kLab;
  line.baseline_only = true;
  line.baselines = {GetParam()};
  line.megabytes = 2;
  line.connections = 3;
  line.repeat = 2;
  Json report = test::report_of(line);
  ASSERT_EQ(report["runs"].size(), 2u);
  EXPECT_EQ(report["runs"][0]["destination_node"], "b");
  EXPECT_EQ(report["runs"][1]["destination_node"], "a");
  for (const Json& run : report["runs"]) {
    EXPECT_EQ(run["verified"], true);
    for (const char* bad : {"errors", "resets", "lost", "duplicated", "reordered"}) EXPECT_EQ(run["client"][bad], 0) << bad;
    EXPECT_TRUE(run["service_interruption_ms"].is_number());
    EXPECT_TRUE(run["downtime_ms"].is_null()) << "CRIU does not tell when it lets the tree run";
    // Memory that is not in the images comes afterwards, and takes its time.
    const bool lazy = GetParam() == std::string(kStockLazy);
    EXPECT_EQ(run["lazy"]["complete_ms"].is_number(), lazy);
    EXPECT_EQ(run["bytes_sent"].is_null(), lazy) << "nobody counts what CRIU's page server sends";
  }
  for (const char* kind : {"process", "namespace", "mount", "cgroup", "file", "device"}) {
    EXPECT_EQ(report["leftovers"][kind], 0) << report["leftovers"];
  }
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty()) << "a lab that the run made goes with it";
}
INSTANTIATE_TEST_SUITE_P(Both, StockCriu, ::testing::Values(kStockCold, kStockLazy),
                         [](const auto& test) { return std::string(test.param == std::string(kStockLazy) ? "Lazy" : "Cold"); });

TEST(NaiveProtection, MovesItsOwnRedisBesideMose) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  if (probe("uffd-wp-async").state != ProbeState::yes) GTEST_SKIP() << "this kernel has no asynchronous write protection";
  CommandLine line;
  line.lab = kLab;
  line.baselines = {kNaiveProtection};
  line.megabytes = 4;
  line.connections = 3;
  line.repeat = 1;
  line.rate = 1000;
  Json report = test::report_of(line);
  ASSERT_EQ(report["runs"].size(), 2u);
  const Json &ours = report["runs"][0], &naive = report["runs"][1];
  EXPECT_EQ(ours["role"], "mose");
  EXPECT_EQ(ours["workload"], "redis");
  EXPECT_EQ(naive["role"], "baseline");
  EXPECT_EQ(naive["baseline"], kNaiveProtection);
  EXPECT_EQ(naive["workload"], kNaiveProtection);
  EXPECT_EQ(naive["tracking"]["source"], "write-protection");
  EXPECT_THAT(naive["tracking"]["reason"].get<std::string>(), ::testing::StartsWith("asked for wp-early; armed from the first round on"));
  for (const Json& run : report["runs"]) {
    for (const char* bad : {"errors", "resets", "lost", "duplicated", "reordered"}) EXPECT_EQ(run["client"][bad], 0) << bad;
    EXPECT_TRUE(run["client"]["phases"]["before"]["server_cpu_us"].is_number()) << "of each its own server is watched";
  }
  for (const char* kind : {"process", "namespace", "mount", "cgroup", "pin", "file", "device"}) {
    EXPECT_EQ(report["leftovers"][kind], 0) << report["leftovers"];
  }
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty());
}

}  // namespace
}  // namespace mose::lab
