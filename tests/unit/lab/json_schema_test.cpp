// SPDX-License-Identifier: MIT
#include "json_schema.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mose::test {
namespace {

using Json = nlohmann::ordered_json;

TEST(JsonSchema, EachRuleIsSeenToFail) {
  Json schema = Json::parse(R"({"type":"object","additionalProperties":false,"required":["a"],
    "properties":{"a":{"$ref":"#/$defs/n"},"b":{"enum":["x",null]},"c":{"const":1},"d":{"type":"array","items":{"type":"string"}}},
    "$defs":{"n":{"type":["number","null"],"minimum":0}}})");
  auto bad = [&](const char* text) { return !schema_violation(schema, Json::parse(text)).empty(); };
  EXPECT_FALSE(bad(R"({"a":1.5,"b":null,"c":1,"d":["y"]})"));
  EXPECT_FALSE(bad(R"({"a":null})"));
  EXPECT_TRUE(bad("[]"));
  EXPECT_TRUE(bad("{}"));
  EXPECT_TRUE(bad(R"({"a":"1"})"));
  EXPECT_TRUE(bad(R"({"a":-1})"));
  EXPECT_TRUE(bad(R"({"a":1,"b":"y"})"));
  EXPECT_TRUE(bad(R"({"a":1,"c":2})"));
  EXPECT_TRUE(bad(R"({"a":1,"d":["y",2]})"));
  EXPECT_TRUE(bad(R"({"a":1,"e":2})"));
}

TEST(JsonSchema, RuleThatIsNotCheckedIsRefused) {
  EXPECT_FALSE(schema_violation(Json::parse(R"({"pattern":"x"})"), Json("x")).empty());
}

}  // namespace
}  // namespace mose::test
