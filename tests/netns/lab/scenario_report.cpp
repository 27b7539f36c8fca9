// SPDX-License-Identifier: MIT
#include "scenario_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/fd.h"
#include "json_schema.h"
#include "lab/scenario.h"

namespace mose::test {

nlohmann::ordered_json report_of(lab::CommandLine line) {
  using Json = nlohmann::ordered_json;
  line.verb = "run";
  line.quiet = std::chrono::milliseconds(1500);  // what is normal matters to no test
  line.json = true;
  line.json_file = "/var/tmp/" + line.lab + ".json";
  auto good = lab::run_scenario(line);
  EXPECT_TRUE(good) << good.error().what;
  auto text = read_file(line.json_file);
  ::unlink(line.json_file.c_str());
  EXPECT_TRUE(text) << text.error().what;
  if (!good || !text) return Json::object();
  EXPECT_TRUE(*good) << "a run is not verified: " << *text;
  Json report = Json::parse(*text, nullptr, false);
  auto schema = read_file(MOSE_REPORT_SCHEMA);
  EXPECT_TRUE(schema);
  EXPECT_EQ(schema_violation(Json::parse(schema.value_or("{}")), report), "");
  return report;
}

}  // namespace mose::test
