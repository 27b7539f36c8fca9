// SPDX-License-Identifier: MIT
// A live Redis moved under a fixed rate of pipelined writes: what the report says of each phase, of TCP and of Redis's
// cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bed.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kLab = "t-lab-load";
constexpr uint32_t kRate = 3000;  // of which a sanitised agent on a busy machine still serves every request

TEST(Load, AtAFixedRateIsToldByPhase) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  CommandLine line;
  line.lab = kLab;
  line.megabytes = 16;
  line.connections = 4;
  line.rate = kRate;
  line.keys = "zipf";
  line.probes = 1;  // of several the longest gap may be another one's than the longest less what is normal
  line.repeat = 1;
  Json report = test::report_of(line);
  ASSERT_EQ(report["runs"].size(), 1u);
  const Json& run = report["runs"][0];
  for (const char* bad : {"errors", "resets", "lost", "duplicated", "reordered"})
    EXPECT_EQ(run["client"][bad], 0) << bad;
  for (const char* phase : {"before", "precopy", "handover", "after"}) {
    const Json& p = run["client"]["phases"][phase];
    ASSERT_TRUE(p.is_object()) << phase;
    // The schedule is the clock's: as many are due in a phase as its length says, whatever the server did.
    EXPECT_NEAR(p["requests"].get<double>(), p["seconds"].get<double>() * kRate, kRate * 0.005) << phase;
    EXPECT_LE(p["latency_p50_us"], p["latency_p999_us"]) << phase;
  }
  const Json& phases = run["client"]["phases"];
  EXPECT_GT(phases["handover"]["latency_max_us"], phases["before"]["latency_p50_us"]);
  for (const char* phase : {"before", "precopy", "handover", "after"}) {
    EXPECT_GT(phases[phase]["longest_gap_ms"], 0) << phase;
  }
  const Json& gap = run["client"]["longest_gap"];
  ASSERT_TRUE(gap.is_object());
  const double gap_ms = static_cast<double>(gap["end_us"].get<int64_t>() - gap["start_us"].get<int64_t>()) / 1000;
  EXPECT_GE(gap_ms + 0.001, run["service_interruption_ms"].get<double>()) << "which is this less what is normal";
  EXPECT_GE(gap_ms + 0.001, phases["handover"]["longest_gap_ms"].get<double>());
  if (gap["phase"] == "handover") {
    EXPECT_NEAR(gap_ms, phases["handover"]["longest_gap_ms"].get<double>(), 0.01);
  }
  EXPECT_GT(phases["before"]["server_cpu_us"], 0);
  EXPECT_GT(phases["precopy"]["server_cpu_us"], 0);
  EXPECT_GT(phases["after"]["server_cpu_us"], 0) << "at the other node";
  for (const char* side : {"client", "workload"}) {
    ASSERT_TRUE(run["tcp"][side].is_object()) << side;
    EXPECT_EQ(run["tcp"][side]["resets_sent"], 0) << side;
  }
  EXPECT_EQ(run["tcp"]["client"]["resets_received"], 0);
  EXPECT_EQ(run["tcp"]["client"]["established_resets"], 0);
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty());
}

}  // namespace
}  // namespace mose::lab
