// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "model/report.h"

namespace mose {
namespace {

using Json = nlohmann::json;

Report full() {
  Report r;
  r.migration_id = "000102030405060708090a0b0c0d0eff";
  r.workload = "redis";
  r.source_node = "a";
  r.destination_node = "b";
  r.strategy_requested = "auto";
  r.strategy = "hybrid";
  r.strategy_reason = "round 2 had only 1.0 MiB to send";
  r.outcome = "complete";
  r.reason = "a \"reason\"\nof two lines";
  r.downtime_ms = 71.25;
  r.total_ms = 900.5;
  r.tls = {.version = "TLSv1.3", .cipher = "TLS_AES_128_GCM_SHA256", .peer = "b"};
  r.phases_ms = {
      .quiesce = 1, .freeze = 0.4, .scan = 3, .dump = 24, .transfer = 2, .restore = 30, .commit = 4, .drain = 0.5};
  r.timeline = {{"a", "freeze", 1000, 1400}, {"b", "restore", -5, 3}};
  r.precopy = {.rounds = 2,
               .bytes = 4096,
               .pages = 1,
               .ended = "small",
               .link_mbit = 940.5,
               .written_mbit = 3,
               .forecast_left_pages = 17,
               .throttle_percent = 40,
               .throttled_ms = 812.5,
               .windows = {}};
  r.precopy.windows = {{.round = 2, .pages = 900, .window_ms = 120.5},
                       {.round = 3, .pages = 0, .window_ms = 40, .forecast_pages = 3.5}};
  r.lazy = {.pages = 9,
            .faults = 7,
            .pages_at_commit = 4,
            .pages_at_commit_max = 16384,
            .fault_p50_us = 30.5,
            .fault_p99_us = 100,
            .complete_ms = 8};
  r.standby = {.used = true, .reason = "", .pause_ms = 21.5, .refresh_ms = 3.25};
  r.tracking = {.source = "hash-scan", .reason = "write faults are dear", .ebpf = "raw_tp", .ebpf_events = 0, .ebpf_lost = 0};
  r.tracking.processes = {{.process = 2, .threads = 3, .write_faults = 77, .write_faults_per_s = 0.5}};
  r.steer = {.layer = "tc", .mode = "l2"};
  r.bulk = {.bytes_uncompressed = 8192, .bytes = 4096, .frames_raw = 0, .frames_lz4 = 1, .frames_zstd = 2,
            .bandwidth_max_bps = 1000, .ratio = 0.5, .capped_ms = 12.5};
  r.bytes_sent = std::numeric_limits<uint64_t>::max();
  r.packets = {.held = 33, .drained = 33, .redirected = 4, .dropped = 0, .overflow = 0, .half_open = 0,
               .last_out_us = 100, .first_out_us = 20100, .silence_ms = 20};
  return r;
}

TEST(Report, SurvivesItsText) {
  std::string text = to_json(full());
  auto again = report_from_json(text);
  ASSERT_TRUE(again);
  EXPECT_EQ(to_json(*again), text);
  EXPECT_EQ(again->bytes_sent, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(again->timeline.at(1).start_us, -5);
  EXPECT_EQ(again->reason, full().reason);
  ASSERT_TRUE(again->tls);
  EXPECT_EQ(again->tls->cipher, full().tls->cipher);
  EXPECT_EQ(again->tls->peer, "b");
  EXPECT_EQ(again->precopy.windows.at(1).forecast_pages, 3.5);
  EXPECT_EQ(again->tracking.processes.at(0).threads, 3u);
  EXPECT_EQ(text.find('\n'), std::string::npos) << "one line";
}

TEST(Report, WhatIsUnknownIsNullAndNeverZero) {
  Json json = Json::parse(to_json(Report{}));
  std::function<void(const Json&, const std::string&)> all_null = [&](const Json& value, const std::string& path) {
    if (value.is_object()) {
      for (auto& [key, inner] : value.items()) all_null(inner, path + "/" + key);
    } else if (path == "/timeline" || path == "/precopy/windows" || path == "/tracking/processes") {
      EXPECT_EQ(value, Json::array());
    } else {
      EXPECT_TRUE(value.is_null()) << path;
    }
  };
  all_null(json, "");
  for (const char* key : {"downtime_ms", "tls", "phases_ms", "precopy", "lazy", "tracking", "standby", "steer", "bulk", "packets", "timeline"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  auto again = report_from_json(to_json(Report{}));
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->downtime_ms);
  EXPECT_FALSE(again->tls);
  EXPECT_FALSE(again->packets.dropped);
  EXPECT_EQ(to_json(*again), to_json(Report{}));
}

TEST(Report, ZeroThatWasMeasuredStaysZero) {
  Report report;
  report.packets.dropped = 0;
  EXPECT_EQ(Json::parse(to_json(report))["packets"]["dropped"], 0);
  EXPECT_EQ(report_from_json(to_json(report))->packets.dropped, 0u);
}

TEST(Report, AFigureThatIsNoNumberIsNull) {
  Report report;
  report.downtime_ms = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(Json::parse(to_json(report))["downtime_ms"].is_null());
}

TEST(Report, BytesThatAreNotTextDoNotBreakIt) {
  Report report;
  report.reason = "bad \xff byte";
  EXPECT_TRUE(Json::accept(to_json(report)));
}

TEST(Report, WhatIsNoReportIsAnError) {
  for (const char* bad : {"", "null", "[]", "7", "{", "{\"timeline\":[7]}", "{\"timeline\":[null]}"}) {
    EXPECT_FALSE(report_from_json(bad)) << bad;
  }
}

TEST(Report, WrongTypesFromAPeerAreUnknown) {
  auto report =
      report_from_json(R"({"workload":7,"downtime_ms":"fast","bytes_sent":-1,"phases_ms":[],"tls":true,"precopy":{"pages":1.5,
      "bytes":1e300,"rounds":true},"lazy":null,"tracking":{"processes":[7,{"process":-1}]},"timeline":[{"node":1,"start_us":1e300,"end_us":18446744073709551615}]})");
  ASSERT_TRUE(report);
  EXPECT_EQ(report->workload, "");
  EXPECT_FALSE(report->downtime_ms);
  EXPECT_FALSE(report->tls);
  EXPECT_FALSE(report->bytes_sent) << "a negative count is not a huge one";
  EXPECT_FALSE(report->precopy.pages);
  EXPECT_FALSE(report->precopy.bytes);
  EXPECT_FALSE(report->precopy.rounds);
  ASSERT_EQ(report->tracking.processes.size(), 1u);
  EXPECT_FALSE(report->tracking.processes[0].process);
  EXPECT_EQ(report->timeline.at(0).start_us, 0);
  EXPECT_EQ(report->timeline.at(0).end_us, 0);
}

TEST(Report, UnknownFieldsAreIgnored) {
  EXPECT_TRUE(report_from_json(R"({"from_a_newer_version":{"x":1},"outcome":"complete"})"));
}

}  // namespace
}  // namespace mose
