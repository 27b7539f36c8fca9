// SPDX-License-Identifier: MIT
#include "lab/run_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "json_schema.h"
#include "lab/agent_memory.h"
#include "lab/inventory.h"
#include "model/report.h"

namespace mose::lab {
namespace {

Json schema() {
  auto text = read_file(MOSE_REPORT_SCHEMA);
  return text ? Json::parse(*text) : Json();
}

Report finished_move() {
  Report r;
  r.migration_id = "0123456789abcdef0123456789abcdef";
  r.workload = "redis";
  r.source_node = "a";
  r.destination_node = "b";
  r.strategy_requested = "auto";
  r.strategy = "hybrid";
  r.outcome = "complete";
  r.downtime_ms = 42.5;
  r.total_ms = 900;
  r.tls = {.version = "TLSv1.3", .cipher = "TLS_AES_128_GCM_SHA256", .peer = "b"};
  r.phases_ms.dump = 11;
  r.timeline = {{"a", "dump", 100, 200}};
  r.precopy.rounds = 2;
  r.bytes_sent = 1 << 20;
  return r;
}

RunRecord good_record() {
  RunRecord record;
  record.report = to_json(finished_move());
  client::Figures f;
  f.counts.requests = 1000;
  f.service_interruption_ms = 50;
  f.interruption_any_ms = 48;
  f.latency_p50_us = 100;
  f.longest_gap = client::Window{150'000, 210'000};
  f.longest_gap_phase = client::Phase::handover;
  f.phases[0] = client::PhaseFigures{5, 100'000, 20'000, 100, 300, 900, 2000, 10, 1.5};
  f.phases[1] = client::PhaseFigures{1, 20'000, 19'999, 200, 600, 1800, 4000, 10.5, 2.5};
  f.client_tcp = client::TcpCounters{1, 12, 5, 0, 0};
  f.resets_received = 4;
  record.figures = f;
  record.verification = client::Verification{100, 0, true, ""};
  return record;
}

Json report_of(const Json& runs, const std::vector<Footprints>& memory = {}, const Inventory& leftovers = {}) {
  ReportHead head{"redis", "mose lab run redis", 7, "4.2.1", {}, {}, {}, {}, true};
  return report_object(head, runs, agents_json(memory), leftovers_json(leftovers));
}

Json run_of(const RunRecord& record) {
  auto run = run_object(record);
  EXPECT_TRUE(run) << run.error().what;
  return run ? *run : Json();
}

TEST(RunReport, FollowsTheSchema) {
  Json runs = Json::array({run_of(good_record())});
  RunRecord stock = good_record();
  stock.role = "baseline";
  stock.baseline = "stock-cold";
  Report cold;
  cold.strategy = "cold";
  cold.outcome = "complete";
  stock.report = to_json(cold);
  runs.push_back(run_of(stock));
  Json report = report_of(runs);
  EXPECT_EQ(mose::test::schema_violation(schema(), report), "");
  EXPECT_TRUE(all_verified(runs));
  EXPECT_TRUE(report["link"]["rate_mbit"].is_null()) << "unlimited";
  EXPECT_NE(report_table(report).find("stock-cold"), std::string::npos);
}

Footprints agents(uint64_t a_mib, uint64_t a_descriptors) {
  return {{{"a", "mosed"}, {1, a_mib << 20, a_mib << 19, a_descriptors}}};
}

TEST(RunReport, GrowthOfTheAgentsCountsFromWhenBothHaveDoneEverythingOnce) {
  // Four moves: before, a->b, b->a (warm), a->b, b->a.
  std::vector<Footprints> memory = {agents(20, 10), agents(30, 12), agents(40, 14), agents(41, 15), agents(42, 15)};
  memory[1][{"b", "mose-pager"}] = {1, 5 << 20, 4 << 20, 20};
  Json report = report_of(Json::array({run_of(good_record())}), memory);
  EXPECT_EQ(mose::test::schema_violation(schema(), report), "");
  ASSERT_EQ(report["agents"].size(), 2u);
  const Json& agent = report["agents"][0];
  EXPECT_EQ(agent["warm_move"], 2);
  EXPECT_EQ(agent["first"]["resident_bytes"], 40 << 20);
  EXPECT_NEAR(agent["growth"]["resident_percent"].get<double>(), 5, 1e-9);
  EXPECT_NEAR(agent["growth"]["anonymous_percent"].get<double>(), 5, 1e-9);
  EXPECT_EQ(agent["growth"]["descriptors"], 1);
  EXPECT_EQ(agent["series"].size(), 5u) << "all of it can be read";
  EXPECT_EQ(agent["series"][0]["descriptors"], 10);
  const Json& pager = report["agents"][1];
  EXPECT_TRUE(pager["last"].is_null()) << "what has ended holds nothing";
  EXPECT_TRUE(pager["growth"].is_null());
  EXPECT_TRUE(pager["series"][1].is_object());
  EXPECT_NE(report_table(report).find("40.0 (14)    42.0 (15)  +5.0 %"), std::string::npos) << report_table(report);
}

TEST(RunReport, GrowthIsJudgedBetweenMovesToTheSameNode) {
  EXPECT_EQ(warm_move(10), 2u);
  EXPECT_EQ(warm_move(5), 3u);
  for (size_t few : {0u, 1u, 2u, 3u}) EXPECT_EQ(warm_move(few), std::nullopt) << few;
  Json report = report_of(Json::array({run_of(good_record())}), {agents(20, 10), agents(90, 10)});
  EXPECT_TRUE(report["agents"][0]["growth"].is_null()) << "one move says nothing";
  EXPECT_EQ(mose::test::schema_violation(schema(), report), "");
}

TEST(RunReport, LeftoversAreWhatWasNotThereBefore) {
  Inventory before = {{{"a", "process", "mosed"}, 1}, {{"a", "namespace", "net"}, 1}, {{"b", "file", "/run/x"}, 1}};
  Inventory after = {{{"a", "process", "mosed"}, 1},
                     {{"a", "namespace", "net"}, 3},
                     {{"a", "pin", "/sys/fs/bpf/y"}, 1},
                     {{"b", "file", "/var/lib/mose/history.jsonl"}, 1}};
  Json report = report_of(Json::array({run_of(good_record())}), {}, additions(before, after));
  EXPECT_EQ(mose::test::schema_violation(schema(), report), "");
  EXPECT_EQ(report["leftovers"]["namespace"], 2);
  EXPECT_EQ(report["leftovers"]["pin"], 1);
  EXPECT_EQ(report["leftovers"]["process"], 0);
  EXPECT_EQ(report["leftovers"]["file"], 0) << "what has gone is no leftover";
  ASSERT_EQ(report["leftovers"]["items"].size(), 3u) << "what is kept is named";
  EXPECT_TRUE(report["leftovers"]["items"][0]["kept"].is_null());
  EXPECT_TRUE(report["leftovers"]["items"][2]["kept"].is_string());
  EXPECT_FALSE(is_clean(additions(before, after)));
  EXPECT_TRUE(is_clean({{{"b", "file", "/var/lib/mose/history.jsonl"}, 1}}));
  EXPECT_NE(report_table(report).find("a   namespace  net, 2 times"), std::string::npos) << report_table(report);
  EXPECT_NE(report_table(report_of(Json::array())).find("leftovers: none"), std::string::npos);
}

TEST(RunReport, ReportWithoutRunsFollowsTheSchemaButIsNotVerified) {
  EXPECT_EQ(mose::test::schema_violation(schema(), report_of(Json::array())), "");
  EXPECT_FALSE(all_verified(Json::array()));
}

TEST(RunReport, UnknownIsNullNeverZeroAndNoKeyIsMissing) {
  RunRecord record;
  record.report = R"({"outcome":"refused","strategy":null,"reason":"no such node"})";
  Json run = run_of(record);
  EXPECT_EQ(mose::test::schema_violation(schema(), report_of(Json::array({run}))), "");
  for (const char* key : {"service_interruption_ms", "interruption_any_ms", "downtime_ms", "total_ms", "tls", "bytes_sent", "baseline"}) {
    EXPECT_TRUE(run[key].is_null()) << key;
  }
  for (const char* object :
       {"phases_ms", "precopy", "lazy", "tracking", "standby", "steer", "packets", "client", "tcp", "predicted"}) {
    for (const auto& [key, value] : run[object].items()) EXPECT_TRUE(value.is_null() || value == Json::array()) << object << "." << key;
  }
  EXPECT_EQ(run["verified"], false);
  EXPECT_NE(report_table(report_of(Json::array({run}))).find("no such node"), std::string::npos);
}

TEST(RunReport, LoadIsShownByPhaseAndTcpBySide) {
  Json run = run_of(good_record());
  EXPECT_EQ(run["client"]["phases"]["precopy"]["latency_p999_us"], 1800);
  EXPECT_TRUE(run["client"]["phases"]["after"].is_null());
  EXPECT_EQ(run["tcp"]["client"]["timeouts"], 1);
  EXPECT_EQ(run["tcp"]["client"]["other_retransmits"], 7) << "12 without 5 probes";
  EXPECT_TRUE(run["tcp"]["workload"].is_null()) << "could not be read";
  std::string table = report_table(report_of(Json::array({run, run})));
  EXPECT_NE(table.find("19999     0.20     0.60     1.80      4.0      2.5    10.50   1.050     2.00"), std::string::npos)
      << table;
  EXPECT_NE(table.find("client             2         10         14          0          8  n=2"), std::string::npos)
      << table;
  EXPECT_EQ(table.find("workload  "), std::string::npos) << table;
}

TEST(RunReport, TheLinkIsAsAskedForAndAsMeasured) {
  ReportHead head{"redis", "mose lab run redis", 7, "", 1000, 10, 980, 10.25, false};
  Json report = report_object(head, Json::array(), Json::array(), nullptr);
  EXPECT_EQ(mose::test::schema_violation(schema(), report), "");
  EXPECT_EQ(report["link"]["measured_rtt_ms"], 10.25);
  EXPECT_NE(report_table(report).find("link asked for: 1000.0 Mbit/s, 10.00 ms; measured: 980.0 Mbit/s, 10.25 ms"),
            std::string::npos);
  EXPECT_NE(report_table(report).find("leftovers: could not be looked for"), std::string::npos);
  EXPECT_EQ(report_table(report_of(Json::array())).find("link"), std::string::npos) << "plain";
}

TEST(RunReport, MeasuredZeroStaysZero) {
  RunRecord record = good_record();
  record.figures->service_interruption_ms = 0;
  Json run = run_of(record);
  EXPECT_EQ(run["service_interruption_ms"], 0);
  EXPECT_EQ(run["client"]["errors"], 0);
}

TEST(RunReport, VerifiedNeedsEverything) {
  EXPECT_EQ(run_of(good_record())["verified"], true);
  auto changed = [](auto change) {
    RunRecord record = good_record();
    change(record);
    return run_of(record)["verified"];
  };
  EXPECT_EQ(changed([](RunRecord& r) { r.verification.reset(); }), false) << "data not checked";
  EXPECT_EQ(changed([](RunRecord& r) { r.verification->verified = false; }), false) << "data wrong";
  EXPECT_EQ(changed([](RunRecord& r) { r.figures.reset(); }), false) << "client gone";
  EXPECT_EQ(changed([](RunRecord& r) { r.figures->counts.lost = 1; }), false);
  EXPECT_EQ(changed([](RunRecord& r) { r.figures->counts.duplicated = 1; }), false);
  EXPECT_EQ(changed([](RunRecord& r) { r.figures->counts.reordered = 1; }), false);
  EXPECT_EQ(changed([](RunRecord& r) { r.report = R"({"outcome":"failed"})"; }), false) << "not moved";
}

TEST(RunReport, LostCountsWhatTheDataCheckMisses) {
  RunRecord record = good_record();
  record.figures->counts.lost = 2;
  record.verification = client::Verification{100, 3, false, "key is missing"};
  EXPECT_EQ(run_of(record)["client"]["lost"], 5);
}

TEST(RunReport, PredictionOfTheAgentIsKept) {
  RunRecord record = good_record();
  Json agent = Json::parse(record.report);
  agent["predicted"] = {{"downtime_ms", 40.0}};
  record.report = agent.dump();
  Json run = run_of(record);
  EXPECT_EQ(run["predicted"]["downtime_ms"], 40.0);
  EXPECT_TRUE(run["predicted"]["bytes"].is_null());
}

TEST(RunReport, GarbageFromTheAgentIsAnError) {
  RunRecord record = good_record();
  for (const char* bad : {"", "[]", "{", "null"}) {
    record.report = bad;
    EXPECT_FALSE(run_object(record)) << bad;
  }
}

TEST(RunReport, SchemaSeesAMissingFigure) {
  Json report = report_of(Json::array({run_of(good_record())}));
  report["runs"][0].erase("downtime_ms");
  EXPECT_NE(mose::test::schema_violation(schema(), report), "");
  report = report_of(Json::array({run_of(good_record())}));
  report["runs"][0]["client"]["errors"] = -1;
  EXPECT_NE(mose::test::schema_violation(schema(), report), "");
}

}  // namespace
}  // namespace mose::lab
