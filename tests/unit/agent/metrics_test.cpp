// SPDX-License-Identifier: MIT
#include "agent/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <regex>

#include "agent/metrics_text.h"
#include "agent/migration_tally.h"
#include "support/exposition.h"

namespace mose::agent {
namespace {

using test::Exposition;
using test::parse_exposition;
using testing::HasSubstr;

constexpr MetricFamily kThings{"mose_things", MetricType::gauge, "Things."};

TEST(MetricsText, GivesHelpAndTypeOnceBeforeTheSamples) {
  MetricsText text;
  text.family(kThings);
  text.sample({{"kind", "a"}}, 1);
  text.sample({{"kind", "b"}, {"of", "c"}}, 0.25);
  EXPECT_EQ(text.take(),
            "# HELP mose_things Things.\n# TYPE mose_things gauge\n"
            "mose_things{kind=\"a\"} 1\nmose_things{kind=\"b\",of=\"c\"} 0.25\n");
}

TEST(MetricsText, EscapesWhatALabelMayHold) {
  const std::pair<const char*, const char*> rows[] = {
      {"back\\slash", "back\\\\slash"},
      {"\"quoted\"", "\\\"quoted\\\""},
      {"two\nlines", "two\\nlines"},
      {"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80", "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80"},
      {"\xff", "\xef\xbf\xbd"},                         // never begins a character
      {"\xc3", "\xef\xbf\xbd"},                         // ends in the middle
      {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},         // longer than need be
      {"\xed\xa0\x80x", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdx"},  // a surrogate
  };
  for (const auto& [value, written] : rows) {
    MetricsText text;
    text.family(kThings);
    text.sample({{"of", value}}, 1);
    const std::string out = text.take();
    EXPECT_THAT(out, HasSubstr("{of=\"" + std::string(written) + "\"} 1\n"));
    auto read = parse_exposition(out);
    ASSERT_TRUE(read) << read.error().what;
  }
}

TEST(MetricsText, WritesNumbersAsTheyAreRead) {
  for (double value : {0.0, -1.5, 1e-9, 123456789.0, 18446744073709551615.0, 0.1 + 0.2, std::numeric_limits<double>::infinity()}) {
    MetricsText text;
    text.family(kThings);
    text.sample(value);
    auto read = parse_exposition(text.take());
    ASSERT_TRUE(read) << read.error().what;
    EXPECT_EQ(read->value("mose_things"), value);
  }
}

TEST(MetricsText, HistogramsAreCumulative) {
  constexpr double kBounds[] = {0.1, 1, 10};
  MetricHistogram histogram(kBounds);
  for (double value : {0.05, 0.1, 0.5, 5.0, 50.0}) histogram.add(value);
  MetricsText text;
  text.family({"mose_wait_seconds", MetricType::histogram, "Waits."});
  text.histogram(histogram);
  const std::string out = text.take();
  EXPECT_EQ(out,
            "# HELP mose_wait_seconds Waits.\n# TYPE mose_wait_seconds histogram\n"
            "mose_wait_seconds_bucket{le=\"0.1\"} 2\nmose_wait_seconds_bucket{le=\"1\"} 3\nmose_wait_seconds_bucket{le=\"10\"} 4\n"
            "mose_wait_seconds_bucket{le=\"+Inf\"} 5\nmose_wait_seconds_sum 55.65\nmose_wait_seconds_count 5\n");
  EXPECT_TRUE(parse_exposition(out));
}

// The reader is what the other tests trust.
TEST(Exposition, IsReadStrictly) {
  const std::string begin = "# HELP mose_things Things.\n# TYPE mose_things gauge\n";
  EXPECT_TRUE(parse_exposition(begin + "mose_things 1\n"));
  const std::string wrong[] = {
      "mose_things 1\n",
      "# TYPE mose_things gauge\nmose_things 1\n",
      "# HELP mose_things \n# TYPE mose_things gauge\n",
      begin + "mose_things 1",
      begin + "mose_things one\n",
      begin + "mose_things 1\nmose_things 2\n",
      begin + "mose_other 1\n",
      begin + "mose_things{a=\"x} 1\n",
      begin + "mose_things{a=\"\\t\"} 1\n",
      begin + "mose_things{a=\"1\",a=\"2\"} 1\n",
      begin + "mose_things{} 1\n",
      begin + "\nmose_things 1\n",
      begin + begin,
      "# HELP mose_things_total Things.\n# TYPE mose_things_total gauge\n",
      "# HELP mose_things Things.\n# TYPE mose_things counter\n",
      "# HELP mose_s Waits.\n# TYPE mose_s histogram\nmose_s_bucket{le=\"1\"} 2\nmose_s_bucket{le=\"+Inf\"} 1\nmose_s_sum 1\nmose_s_count 1\n",
      "# HELP mose_s Waits.\n# TYPE mose_s histogram\nmose_s_bucket{le=\"1\"} 1\nmose_s_sum 1\nmose_s_count 1\n",
      "# HELP mose_s Waits.\n# TYPE mose_s histogram\nmose_s_bucket{le=\"+Inf\"} 1\nmose_s_sum 1\nmose_s_count 2\n",
  };
  for (const std::string& text : wrong) EXPECT_FALSE(parse_exposition(text)) << text;
}

// One of everything, so that every family has a sample.
struct Sample {
  MigrationTally tally;
  MetricsSnapshot snapshot;
  Sample() {
    MigrationEnd end{.role = Role::source, .outcome = Outcome::complete};
    end.report_json = R"({"downtime_ms":42,"total_ms":1500,"packets":{"silence_ms":61},"standby":{"pause_ms":17},"tracking":{"ebpf_lost":3}})";
    tally.add(end);
    tally.add({.role = Role::source, .outcome = Outcome::cancelled});
    tally.add({.role = Role::destination, .outcome = Outcome::complete, .report_json = end.report_json});
    snapshot = {.version = "1", .node = "a", .certificate_left_s = -5, .resident_bytes = 1u << 20, .open_descriptors = 7, .processor_s = 0.5};
    snapshot.service.ended = &tally;
    snapshot.service.listening = true;
    snapshot.service.refused[static_cast<size_t>(RefusalKind::identity)] = 4;
    snapshot.workloads[static_cast<size_t>(WorkloadState::running)] = 2;
    MigrationFigures source, destination, undecided;
    source.progress = {.id = {{1}}, .workload = "re\"dis", .source = "a", .destination = "b", .role = Role::source, .phase = "serving: a reason; it is tried again",
                       .round = 3, .bytes_total = 4096, .elapsed_ms = 2500};
    source.bytes_processed = 1000;
    source.bytes_remaining = 96;
    source.dirty_bytes_per_s = 12.5;
    source.link_bytes_per_s = 1e9;
    destination.progress = {.id = {{2}}, .workload = "db", .source = "c", .destination = "a", .role = Role::destination, .phase = "preparing"};
    destination.pages_missing = 8;
    destination.faults = 2;
    destination.fault_waiting_s = 1.5;
    undecided.progress = {.id = {{3}}, .role = Role::source, .phase = "undecided: its journal is damaged"};
    undecided.undecided = true;
    snapshot.service.migrations = {source, destination, undecided};
  }
};

TEST(Metrics, SayWhatIsKnownAndNothingElse) {
  const Sample sample;
  auto read = parse_exposition(format_metrics(sample.snapshot));
  ASSERT_TRUE(read) << read.error().what;
  const Exposition::Labels source = {{"workload", "re\"dis"}, {"role", "source"}, {"peer", "b"}, {"id", MigrationId{{1}}.hex()}};
  const Exposition::Labels destination = {{"workload", "db"}, {"role", "destination"}, {"peer", "c"}};
  struct Row {
    const char* name;
    Exposition::Labels labels;
    std::optional<double> value;
  };
  const Row rows[] = {
      {"mose_build_info", {{"version", "1"}, {"node", "a"}}, 1},
      {"mose_migrations_in_pending_phase", {}, 1},
      {"mose_migrations_in_running_phase", {}, 1},
      {"mose_migrations_in_phase", {{"role", "source"}, {"phase", "serving"}}, 1},
      {"mose_migrations_in_phase", {{"role", "source"}, {"phase", "preparing"}}, 0},
      {"mose_migrations_in_phase", {{"role", "destination"}, {"phase", "preparing"}}, 1},
      {"mose_migrations_undecided", {}, 1},
      {"mose_migrations_ended_total", {{"role", "source"}, {"result", "complete"}}, 1},
      {"mose_migrations_ended_total", {{"role", "source"}, {"result", "cancelled"}}, 1},
      {"mose_migrations_ended_total", {{"role", "source"}, {"result", "failed"}}, 0},
      {"mose_migrations_ended_total", {{"role", "destination"}, {"result", "complete"}}, 1},
      {"mose_migration_downtime_seconds_bucket", {{"le", "0.03"}}, 0},
      {"mose_migration_downtime_seconds_bucket", {{"le", "0.05"}}, 1},
      {"mose_migration_downtime_seconds_sum", {}, 0.042},
      {"mose_migration_silence_seconds_sum", {}, 0.061},
      {"mose_migration_standby_pause_seconds_sum", {}, 0.017},
      {"mose_migration_total_seconds_sum", {}, 1.5},
      {"mose_fault_events_lost_total", {}, 3},
      {"mose_migration_elapsed_seconds", source, 2.5},
      {"mose_migration_round", source, 3},
      {"mose_migration_round", destination, {}},
      {"mose_migration_data_total_bytes", source, 4096},
      {"mose_migration_data_total_bytes", destination, {}},
      {"mose_migration_data_processed_bytes", source, 1000},
      {"mose_migration_data_remaining_bytes", source, 96},
      {"mose_migration_data_remaining_bytes", destination, {}},
      {"mose_migration_dirty_memory_rate_bytes", source, 12.5},
      {"mose_migration_memory_transfer_rate_bytes", source, 1e9},
      {"mose_migration_pages_missing", destination, 8},
      {"mose_migration_faults", destination, 2},
      {"mose_migration_fault_waiting_seconds", destination, 1.5},
      {"mose_peer_refusals_total", {{"reason", "identity"}}, 4},
      {"mose_peer_refusals_total", {{"reason", "silent"}}, 0},
      {"mose_workloads", {{"state", "running"}}, 2},
      {"mose_workloads", {{"state", "away"}}, 0},
      {"mose_certificate_expires_in_seconds", {}, -5},
      {"process_resident_memory_bytes", {}, 1u << 20},
      {"process_open_fds", {}, 7},
      {"process_cpu_seconds_total", {}, 0.5},
  };
  for (const Row& row : rows) EXPECT_EQ(read->value(row.name, row.labels), row.value) << row.name << testing::PrintToString(row.labels);
  EXPECT_EQ(read->families.at("mose_migration_elapsed_seconds").samples.size(), 2u) << "nothing is measured of what is undecided";
}

TEST(Metrics, CountEveryWayToEnd) {
  for (Role role : {Role::source, Role::destination}) {
    for (size_t number = 0; number < kOutcomes; ++number) {
      const auto outcome = static_cast<Outcome>(number);
      MigrationTally tally;
      tally.add({.role = role, .outcome = outcome});
      MetricsSnapshot snapshot;
      snapshot.service.ended = &tally;
      const auto read = parse_exposition(format_metrics(snapshot));
      ASSERT_TRUE(read) << read.error().what;
      double all = 0;
      for (const auto& sample : read->families.at("mose_migrations_ended_total").samples) all += sample.value;
      EXPECT_EQ(read->value("mose_migrations_ended_total", {{"role", std::string(to_string(role))}, {"result", std::string(to_string(outcome))}}), 1);
      EXPECT_EQ(all, 1);
      EXPECT_EQ(read->value("mose_migration_downtime_seconds_bucket", {{"le", "0.005"}}), 0);
    }
  }
}

TEST(Metrics, AreThoseOfTheGuide) {
  std::ifstream guide(MOSE_METRICS_GUIDE);
  ASSERT_TRUE(guide) << MOSE_METRICS_GUIDE;
  using Described = std::map<std::string, std::pair<std::string, std::set<std::string>>>;
  Described told, served;
  const std::regex row(R"(\| `((?:mose|process)_\w+)` \| (\w+) \| ([\w, ]*)\|.*)");
  for (std::string line; std::getline(guide, line);) {
    std::smatch part;
    if (!std::regex_match(line, part, row)) continue;
    std::set<std::string> labels;
    const std::string names = part[3];
    const std::regex word(R"(\w+)");
    for (std::sregex_iterator at(names.begin(), names.end(), word), end; at != end; ++at) labels.insert(at->str());
    EXPECT_TRUE(told.emplace(part[1], std::pair(part[2], labels)).second) << "twice: " << part[1];
  }
  const Sample sample;
  auto read = parse_exposition(format_metrics(sample.snapshot));
  ASSERT_TRUE(read) << read.error().what;
  for (const auto& [name, family] : read->families) {
    ASSERT_FALSE(family.samples.empty()) << name << " has no sample here: its labels are not compared";
    std::set<std::string> labels;
    for (const auto& [label, value] : family.samples.front().labels) labels.insert(label);
    labels.erase("le");
    served[name] = {family.type, labels};
  }
  EXPECT_EQ(told, served);
}

TEST(Readiness, IsWhatMigrationsNeedAndTellsWhatIsUndecided) {
  const Sample sample;
  const ServiceFigures& good = sample.snapshot.service;
  EXPECT_TRUE(readiness_of(good, false).ready);
  EXPECT_THAT(readiness_of(good, false).text, HasSubstr("ready\njournals: read\nother nodes: can connect\ncertificates: usable\nCRIU: ready\nundecided migrations: 1 (see mose status)\n"));
  EXPECT_FALSE(readiness_of(good, true).ready);
  EXPECT_THAT(readiness_of(good, true).text, testing::StartsWith("ending\n"));
  ServiceFigures bad = good;
  bad.criu_problem = "no CRIU at /x";
  EXPECT_FALSE(readiness_of(bad, false).ready);
  EXPECT_THAT(readiness_of(bad, false).text, HasSubstr("not ready\njournals: read\nother nodes: can connect\ncertificates: usable\nCRIU: no CRIU at /x\n"));
  bad = good;
  bad.certificate_problem = "half a file";
  EXPECT_FALSE(readiness_of(bad, false).ready);
  EXPECT_THAT(readiness_of(bad, false).text, HasSubstr("certificates: half a file\n"));
  bad = good;
  bad.listening = false;
  EXPECT_FALSE(readiness_of(bad, false).ready);
  bad = good;
  bad.journal_problem = "no directory";
  EXPECT_FALSE(readiness_of(bad, false).ready);
}

}  // namespace
}  // namespace mose::agent
