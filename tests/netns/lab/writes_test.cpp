// SPDX-License-Identifier: MIT
// What the source says of the writes of a live Redis that it moves: forecasts beside what came, and who wrote.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "bed.h"
#include "kernel/probe.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kLab = "t-lab-writes";

TEST(Writes, AreForecastAndToldApartWhileARedisMoves) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  CommandLine line;
  line.lab = kLab;
  line.megabytes = 48;  // more than one round leaves alone
  line.connections = 3;
  line.repeat = 1;
  Json report = test::report_of(line);
  ASSERT_EQ(report["runs"].size(), 1u);
  std::set<std::string> agents;
  for (const Json& agent : report["agents"]) {
    if (agent["program"] == "mosed" && agent["last"]["resident_bytes"] > 1 << 20 && agent["last"]["descriptors"] > 3) {
      agents.insert(agent["node"]);
    }
    EXPECT_EQ(agent["series"].size(), 2u) << "before the move, and after it";
  }
  EXPECT_EQ(agents, (std::set<std::string>{"a", "b"})) << report["agents"];
  for (const char* kind : {"process", "namespace", "mount", "cgroup", "pin", "file", "device"}) {
    EXPECT_EQ(report["leftovers"][kind], 0) << report["leftovers"];
  }
  const Json& run = report["runs"][0];

  // Each round but the first closes a window, the freeze the last one.
  const Json& windows = run["precopy"]["windows"];
  ASSERT_GE(run["precopy"]["rounds"], 2);
  ASSERT_EQ(windows.size(), run["precopy"]["rounds"].get<size_t>());
  for (size_t i = 0; i < windows.size(); ++i) {
    EXPECT_EQ(windows[i]["round"], i + 2);
    EXPECT_GT(windows[i]["window_ms"], 0);
    EXPECT_TRUE(windows[i]["pages"].is_number_unsigned());
    EXPECT_TRUE(i == 0 || windows[i]["forecast_pages"].is_number()) << i;
  }
  EXPECT_EQ(windows.back()["pages"], run["lazy"]["pages"]) << "what the freeze leaves is what follows";

  const Json& tracking = run["tracking"];
  bool can = probe("btf").state == ProbeState::yes && probe("page-fault-tracepoints").state == ProbeState::yes;
  ASSERT_EQ(tracking["ebpf"].is_string(), can) << tracking;
  EXPECT_EQ(tracking["ebpf_reason"].is_string(), !can) << tracking;
  if (!can) return;
  EXPECT_GT(tracking["ebpf_events"], 0);
  EXPECT_EQ(tracking["ebpf_lost"], 0);
  // Its init and Redis itself, which writes most.
  ASSERT_GE(tracking["processes"].size(), 1u);
  EXPECT_GE(tracking["processes"][0]["process"], 2);
  EXPECT_GE(tracking["processes"][0]["threads"], 1);
  uint64_t sum = 0;
  for (const Json& process : tracking["processes"]) sum += process["write_faults"].get<uint64_t>();
  EXPECT_GT(sum, 0u);
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty());
}

}  // namespace
}  // namespace mose::lab
