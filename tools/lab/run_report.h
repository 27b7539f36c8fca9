// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/figures.h"

// The report of `mose lab run`: mose.report/1 (include/mose/control/report.schema.json). What could not be measured is
// null, never 0.
namespace mose::lab {

using Json = nlohmann::ordered_json;

// One move as the lab saw it.
struct RunRecord {
  std::string role = "mose";        // or "baseline"
  std::string baseline;             // its name; empty: none
  std::string report;               // run object of the agent or of the baseline, JSON text without the client's part
  std::optional<client::Figures> figures;
  std::optional<client::Verification> verification;
};

// The run object: every key of the schema is there, null where nothing is known.
[[nodiscard]] Result<Json> run_object(const RunRecord& record);

struct ReportHead {
  std::string scenario, command;
  uint64_t seed = 0;
  std::string criu;  // version; empty: unknown
  std::optional<double> rate_mbit, rtt_ms;                    // asked for
  std::optional<double> measured_rate_mbit, measured_rtt_ms;  // at the start of the run
  bool tls = false;  // the nodes know each other by certificates, and what they send is encrypted
};

// `runs` is an array of run objects, `agents` what agents_json() gives (agent_memory.h), `leftovers` what
// leftovers_json() does (inventory.h), or null.
[[nodiscard]] Json report_object(const ReportHead& head, const Json& runs, const Json& agents, const Json& leftovers);

// A table for people: one line a run, then medians and ratios.
[[nodiscard]] std::string report_table(const Json& report);

// True when there is a run and every one is verified.
[[nodiscard]] bool all_verified(const Json& runs);

}  // namespace mose::lab
