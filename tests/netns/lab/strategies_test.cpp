// SPDX-License-Identifier: MIT
// A live Redis is moved by each strategy, and the report holds what the strategy promises: what was sent ahead, what
// was left behind at the commit, and why it was that one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bed.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
constexpr const char* kLab = "t-lab-strategies";

// One move there, or more: the runs of the report, each verified.
Json moved(const std::string& strategy, const std::function<void(CommandLine&)>& change = {}) {
  CommandLine line;
  line.lab = kLab;
  line.megabytes = 48;
  line.connections = 3;
  line.repeat = 1;
  line.strategy = strategy;
  if (change) change(line);
  Json report = test::report_of(line);
  return report.value("runs", Json::array());
}

class Strategies : public testing::Test {
 protected:
  void SetUp() override {
    turn_ = test::take_turn(kLab);
    test::need_criu_and_redis();
  }
  void TearDown() override { EXPECT_THAT(test::traces(kLab), testing::IsEmpty()); }
  Fd turn_;
};

constexpr uint64_t kMemory = 8000;  // pages that a Redis with 48 MB has, and more

TEST_F(Strategies, ColdSendsNothingAheadAndResumesWithEverything) {
  Json runs = moved("cold");
  ASSERT_EQ(runs.size(), 1u);
  const Json& run = runs[0];
  EXPECT_EQ(run["strategy"], "cold");
  EXPECT_THAT(run["strategy_reason"].get<std::string>(), HasSubstr("asked for"));
  EXPECT_TRUE(run["tls"].is_object()) << "nodes of a lab have certificates";
  EXPECT_EQ(run["precopy"]["rounds"], 0);
  EXPECT_GT(run["lazy"]["pages"], kMemory);
  EXPECT_EQ(run["lazy"]["pages_at_commit"], 0);
  EXPECT_EQ(run["lazy"]["complete_ms"], 0) << "it was complete before the thaw";
}

TEST_F(Strategies, PrecopySendsAheadAndResumesWithEverything) {
  Json runs = moved("precopy");
  ASSERT_EQ(runs.size(), 1u);
  const Json& run = runs[0];
  EXPECT_EQ(run["strategy"], "precopy");
  EXPECT_GE(run["precopy"]["rounds"], 1);
  EXPECT_GT(run["precopy"]["pages"], kMemory);
  EXPECT_LT(run["lazy"]["pages"], kMemory);
  EXPECT_EQ(run["lazy"]["pages_at_commit"], 0);
}

TEST_F(Strategies, PostcopySendsNothingAheadAndThePagesFollow) {
  // Without a bound a fast machine has brought them before its disk has the commit.
  Json runs = moved("postcopy", [](CommandLine& line) { line.max_bandwidth = "400mbit"; });
  ASSERT_EQ(runs.size(), 1u);
  const Json& run = runs[0];
  EXPECT_EQ(run["strategy"], "postcopy");
  EXPECT_EQ(run["precopy"]["rounds"], 0);
  EXPECT_GT(run["lazy"]["pages"], kMemory);
  EXPECT_TRUE(run["lazy"]["pages_at_commit_max"].is_null());
  EXPECT_GT(run["lazy"]["faults"], 0) << "somebody has waited for a page after the thaw";
  EXPECT_GT(run["lazy"]["complete_ms"], 0);
}

TEST_F(Strategies, AutoIsAHybridThatSaysWhyAndKeepsItsBound) {
  Json runs = moved("auto");
  ASSERT_EQ(runs.size(), 1u);
  const Json& run = runs[0];
  EXPECT_EQ(run["strategy"], "hybrid");
  EXPECT_EQ(run["strategy_requested"], "auto");
  EXPECT_THAT(run["strategy_reason"].get<std::string>(), HasSubstr("within the bound of"));
  EXPECT_GE(run["precopy"]["rounds"], 1);
  EXPECT_LE(run["lazy"]["pages_at_commit"], run["lazy"]["pages_at_commit_max"]);
}

// Eight writers dirty more than the link carries, which is slow enough for that to take a minute: by --full only. What it
// decides is in the plan's own tests as well.
TEST_F(Strategies, AWriterFasterThanTheLinkIsNoticedInThreeRoundsAndTheBoundIsKept) {
  Json runs = moved("auto", [](CommandLine& line) {
    line.link_rate_mbit = 20;
    line.megabytes = 8;
    line.connections = 8;
  });
  ASSERT_EQ(runs.size(), 1u);
  const Json& run = runs[0];
  EXPECT_EQ(run["strategy"], "hybrid");
  EXPECT_EQ(run["precopy"]["ended"], "outrun") << run["precopy"];
  EXPECT_LE(run["precopy"]["rounds"], 3);
  EXPECT_GT(run["precopy"]["written_mbit"], run["precopy"]["link_mbit"]);
  EXPECT_THAT(run["strategy_reason"].get<std::string>(), HasSubstr("pre-copy does not converge"));
  // One second of the link, which is less than 64 MiB here.
  EXPECT_LT(run["lazy"]["pages_at_commit_max"], 20'000'000 / 8 / 4096 * 11 / 10);
  EXPECT_LE(run["lazy"]["pages_at_commit"], run["lazy"]["pages_at_commit_max"]);
}

// Eight writers whose pages do not become fewer from round to round: by --full only. Each of their requests waits for the one
// before, so that they write less while the server stands still; a load at a fixed rate would make up for it in between.
TEST_F(Strategies, AWriterFasterThanTheLinkIsSlowedDownOnlyWhenThatIsAskedFor) {
  auto overrun = [](bool auto_converge) {
    return [auto_converge](CommandLine& line) {
      line.link_rate_mbit = 50;
      line.megabytes = 16;
      line.connections = 8;
      line.auto_converge = auto_converge;
    };
  };
  Json runs = moved("precopy", overrun(false));
  ASSERT_EQ(runs.size(), 1u);
  const Json& as_it_is = runs[0]["precopy"];
  EXPECT_NE(as_it_is["ended"], "small") << as_it_is;
  EXPECT_TRUE(as_it_is["throttle_percent"].is_null()) << as_it_is;
  EXPECT_TRUE(as_it_is["throttled_ms"].is_null()) << as_it_is;
  Json slowed_runs = moved("precopy", overrun(true));
  ASSERT_EQ(slowed_runs.size(), 1u);
  const Json& slowed = slowed_runs[0]["precopy"];
  EXPECT_EQ(slowed["ended"], "small") << slowed;
  EXPECT_GT(slowed["throttle_percent"], 0) << slowed;
  EXPECT_GT(slowed["throttled_ms"], 0) << slowed;
  EXPECT_THAT(slowed_runs[0]["strategy_reason"].get<std::string>(),
              HasSubstr("the workload was slowed down by up to"));
}

}  // namespace
}  // namespace mose::lab
