// SPDX-License-Identifier: MIT
#include "lab/summary.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;

Json run(const char* role, Json baseline, const char* strategy, Json interruption, bool verified = true) {
  return {{"role", role},           {"baseline", baseline}, {"strategy", strategy}, {"service_interruption_ms", interruption},
          {"verified", verified}};
}

TEST(Summary, GivesMedianP95AndMaxPerGroup) {
  Json runs = Json::array();
  for (int i = 1; i <= 20; ++i) runs.push_back(run("mose", nullptr, "hybrid", i));
  runs.push_back(run("baseline", "stock-cold", "cold", 300));
  runs.push_back(run("baseline", "stock-cold", "cold", 100, false));
  Json summary = summarise(runs);
  ASSERT_EQ(summary["groups"].size(), 2u);
  const Json& mine = summary["groups"][0]["figures"]["service_interruption_ms"];
  EXPECT_EQ(mine["median"], 10.5);
  EXPECT_EQ(mine["p95"], 19.0);
  EXPECT_EQ(mine["max"], 20.0);
  EXPECT_EQ(summary["groups"][1]["runs"], 2);
  EXPECT_EQ(summary["groups"][1]["verified"], 1);
  ASSERT_EQ(summary["ratios"].size(), 1u);
  EXPECT_DOUBLE_EQ(summary["ratios"][0]["service_interruption_ms"].get<double>(), 10.5 / 200);
}

TEST(Summary, FigureThatNoRunHasIsNull) {
  Json summary = summarise(Json::array({run("mose", nullptr, "hybrid", nullptr), run("baseline", "stock-cold", "cold", 100)}));
  EXPECT_TRUE(summary["groups"][0]["figures"]["service_interruption_ms"]["median"].is_null());
  EXPECT_TRUE(summary["ratios"][0]["service_interruption_ms"].is_null());
  EXPECT_TRUE(summary["ratios"][0]["total_ms"].is_null());
}

TEST(Summary, RunsWithoutAFigureAreLeftOut) {
  Json summary = summarise(Json::array({run("mose", nullptr, "hybrid", nullptr), run("mose", nullptr, "hybrid", 7)}));
  EXPECT_EQ(summary["groups"][0]["figures"]["service_interruption_ms"]["median"], 7.0);
}

TEST(Summary, NoRatioToZero) {
  Json summary = summarise(Json::array({run("mose", nullptr, "hybrid", 5), run("baseline", "stock-cold", "cold", 0)}));
  EXPECT_TRUE(summary["ratios"][0]["service_interruption_ms"].is_null());
}

TEST(Summary, OfNothingIsEmpty) {
  Json summary = summarise(Json::array());
  EXPECT_TRUE(summary["groups"].empty());
  EXPECT_TRUE(summary["ratios"].empty());
}

}  // namespace
}  // namespace mose::lab
