// SPDX-License-Identifier: MIT
#include "lab/run_report.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "client/commands.h"
#include "lab/load_table.h"
#include "lab/summary.h"

namespace mose::lab {
namespace {

Json nulls(std::initializer_list<const char*> keys) {
  Json out = Json::object();
  for (const char* key : keys) out[key] = nullptr;
  return out;
}

// Every key of a run, unknown.
Json unknown_run() {
  Json out = nulls({"role", "baseline", "strategy", "strategy_requested", "strategy_reason", "migration_id", "workload",
                    "source_node", "destination_node", "outcome", "reason", "service_interruption_ms",
                    "interruption_any_ms", "downtime_ms"});
  out["phases_ms"] = nulls({"quiesce", "freeze", "scan", "dump", "transfer", "restore", "commit", "drain"});
  out["timeline"] = Json::array();
  out["total_ms"] = out["tls"] = nullptr;
  out["precopy"] = nulls({"rounds", "bytes", "pages", "ended", "link_mbit", "written_mbit", "forecast_left_pages",
                          "throttle_percent", "throttled_ms"});
  out["precopy"]["windows"] = Json::array();
  out["lazy"] = nulls(
      {"pages", "pages_at_commit", "pages_at_commit_max", "faults", "fault_p50_us", "fault_p99_us", "complete_ms"});
  out["tracking"] = nulls({"source", "reason", "ebpf", "ebpf_reason", "ebpf_events", "ebpf_lost"});
  out["tracking"]["processes"] = Json::array();
  out["standby"] = nulls({"used", "reason", "pause_ms", "refresh_ms"});
  out["steer"] = nulls({"layer", "mode"});
  out["bytes_sent"] = nullptr;
  out["bulk"] = nulls({"bytes_uncompressed", "bytes", "ratio", "frames_raw", "frames_lz4", "frames_zstd", "bandwidth_max_bps",
                       "capped_ms"});
  out["packets"] = nulls({"held", "drained", "redirected", "dropped", "overflow", "half_open", "last_out_us",
                          "first_out_us", "silence_ms"});
  out["client"] = nulls({"requests", "errors", "resets", "lost", "duplicated", "reordered", "latency_p50_us",
                         "latency_p99_us", "latency_max_us", "longest_gap", "phases"});
  out["tcp"] = nulls({"client", "workload"});
  out["predicted"] = nulls({"downtime_ms", "total_ms", "bytes"});
  out["verified"] = false;
  return out;
}

// Known values over unknown ones; an object is merged key by key, so that none goes missing.
void merge(Json& into, const Json& from) {
  for (const auto& [key, value] : from.items()) {
    if (value.is_object() && into.contains(key) && into[key].is_object()) {
      merge(into[key], value);
    } else {
      into[key] = value;
    }
  }
}

Json number(const std::optional<double>& v) { return v ? Json(*v) : Json(nullptr); }

std::string cell(const Json& value, int precision = 1) {
  return value.is_number() ? fmt::format("{:.{}f}", value.get<double>(), precision) : "-";
}

std::string text(const Json& value) { return value.is_string() ? value.get<std::string>() : "-"; }

std::string mebibytes(const Json& footprint) {
  return footprint.is_object() ? fmt::format("{:.1f}", footprint["resident_bytes"].get<double>() / 1048576) : "-";
}

std::string agents_table(const Json& agents) {
  if (agents.empty()) return {};
  std::string out =
      "\nagents, resident MiB (descriptors), after the move from which growth counts and after the last\n";
  for (const Json& agent : agents) {
    const Json &first = agent["first"], &last = agent["last"], &growth = agent["growth"];
    auto descriptors = [](const Json& f) { return f.is_object() ? cell(f["descriptors"], 0) : std::string("-"); };
    out += fmt::format("  {:<3} {:<14} {:>7} ({}) {:>7} ({})", text(agent["node"]), text(agent["program"]),
                       mebibytes(first), descriptors(first), mebibytes(last), descriptors(last));
    if (growth.is_object()) out += fmt::format("  {:+.1f} %", growth["resident_percent"].get<double>());
    out += "\n";
  }
  return out;
}

std::string leftovers_table(const Json& leftovers) {
  if (!leftovers.is_object()) return "\nleftovers: could not be looked for\n";
  std::string out;
  for (const Json& item : leftovers["items"]) {
    if (!item["kept"].is_null()) continue;
    out += fmt::format("  {:<3} {:<10} {}", text(item["node"]), text(item["kind"]), text(item["what"]));
    uint64_t count = item["count"].get<uint64_t>();
    out += count == 1 ? "\n" : fmt::format(", {} times\n", count);
  }
  return out.empty() ? "\nleftovers: none\n" : "\nleftovers\n" + out;
}

std::string link_line(const Json& link) {
  if (!link["rate_mbit"].is_number() && !link["rtt_ms"].is_number()) return {};
  return fmt::format("link asked for: {} Mbit/s, {} ms; measured: {} Mbit/s, {} ms\n\n", cell(link["rate_mbit"]),
                     cell(link["rtt_ms"], 2), cell(link["measured_rate_mbit"]), cell(link["measured_rtt_ms"], 2));
}

}  // namespace

Result<Json> run_object(const RunRecord& record) {
  Json out = unknown_run();
  Json report = Json::parse(record.report, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object()) return fail("the report of a move is not a JSON object");
  merge(out, report);
  out["role"] = record.role;
  out["baseline"] = record.baseline.empty() ? Json(nullptr) : Json(record.baseline);
  bool verified = record.verification && record.verification->verified && out["outcome"] == "complete";
  if (record.figures) {
    const client::Figures& f = *record.figures;
    out["service_interruption_ms"] = number(f.service_interruption_ms);
    out["interruption_any_ms"] = number(f.interruption_any_ms);
    out["client"] = {{"requests", f.counts.requests},
                     {"errors", f.counts.errors},
                     {"resets", f.counts.resets},
                     {"lost", f.counts.lost + (record.verification ? record.verification->lost : 0)},
                     {"duplicated", f.counts.duplicated},
                     {"reordered", f.counts.reordered},
                     {"latency_p50_us", number(f.latency_p50_us)},
                     {"latency_p99_us", number(f.latency_p99_us)},
                     {"latency_max_us", number(f.latency_max_us)},
                     {"longest_gap", client::gap_json(f)},
                     {"phases", client::phases_json(f.phases)}};
    out["tcp"] = {{"client", client::tcp_json(f.client_tcp, f.resets_received)},
                  {"workload", client::tcp_json(f.workload_tcp)}};
    // A lost or doubled request is the workload's own data gone wrong, even if the last state looks right.
    verified = verified && f.counts.lost == 0 && f.counts.duplicated == 0 && f.counts.reordered == 0;
  } else {
    verified = false;
  }
  out["verified"] = verified;
  return out;
}

Json report_object(const ReportHead& head, const Json& runs, const Json& agents, const Json& leftovers) {
  utsname host{};
  ::uname(&host);
  long cpus = ::sysconf(_SC_NPROCESSORS_ONLN);
  return {{"schema", "mose.report/1"},
          {"scenario", head.scenario},
          {"command", head.command},
          {"version", MOSE_VERSION},
          {"seed", head.seed},
          {"host",
           {{"kernel", std::string(host.release)},
            {"criu", head.criu.empty() ? Json(nullptr) : Json(head.criu)},
            {"cpus", cpus > 0 ? Json(cpus) : Json(nullptr)}}},
          {"link",
           {{"rate_mbit", number(head.rate_mbit)},
            {"rtt_ms", number(head.rtt_ms)},
            {"measured_rate_mbit", number(head.measured_rate_mbit)},
            {"measured_rtt_ms", number(head.measured_rtt_ms)}}},
          {"tls", head.tls},
          {"runs", runs},
          {"agents", agents},
          {"leftovers", leftovers},
          {"summary", summarise(runs)}};
}

std::string report_table(const Json& report) {
  std::string out = report["tls"] == true ? "" : "the nodes speak plain text with each other (--plain)\n\n";
  out += link_line(report["link"]);
  out += fmt::format("{:<3} {:<12} {:<9} {:<5} {:>12} {:<8} {:>9} {:>9} {:>9} {:>7} {:>6} {:>5} {:<8}\n", "run", "who",
                     "strategy", "move", "interrupt ms", "in", "any ms", "down ms", "total ms", "p99 ms", "errors", "lost",
                     "verified");
  size_t index = 0;
  for (const Json& run : report["runs"]) {
    const Json& client = run["client"];
    Json p99 = client["latency_p99_us"].is_number() ? Json(client["latency_p99_us"].get<double>() / 1000) : Json(nullptr);
    out += fmt::format("{:<3} {:<12} {:<9} {:<5} {:>12} {:<8} {:>9} {:>9} {:>9} {:>7} {:>6} {:>5} {:<8}{}\n", ++index,
                       run["baseline"].is_string() ? text(run["baseline"]) : text(run["role"]), text(run["strategy"]),
                       text(run["source_node"]) + "->" + text(run["destination_node"]), cell(run["service_interruption_ms"]),
                       client["longest_gap"].is_object() ? text(client["longest_gap"]["phase"]) : "-",
                       cell(run["interruption_any_ms"]), cell(run["downtime_ms"]), cell(run["total_ms"]), cell(p99),
                       cell(client["errors"], 0), cell(client["lost"], 0), run["verified"] == true ? "yes" : "NO",
                       run["reason"].is_string() && run["outcome"] != "complete" ? "  " + text(run["reason"]) : "");
  }
  out += "\nmedian (p95, max) of service interruption, ms\n";
  for (const Json& group : report["summary"]["groups"]) {
    const Json& f = group["figures"]["service_interruption_ms"];
    out += fmt::format("  {:<12} {:<9} {:>8} ({}, {})  n={}\n",
                       group["baseline"].is_string() ? text(group["baseline"]) : text(group["role"]), text(group["strategy"]),
                       cell(f["median"]), cell(f["p95"]), cell(f["max"]), group["runs"].get<uint64_t>());
  }
  for (const Json& ratio : report["summary"]["ratios"]) {
    if (!ratio["service_interruption_ms"].is_number()) continue;
    out += fmt::format("  {} is {} times {}'s; until all is moved {} times\n", text(ratio["strategy"]),
                       cell(ratio["service_interruption_ms"], 3), text(ratio["baseline"]), cell(ratio["total_ms"], 3));
  }
  return out + load_table(report["runs"]) + agents_table(report["agents"]) + leftovers_table(report["leftovers"]);
}

bool all_verified(const Json& runs) {
  for (const Json& run : runs) {
    if (run["verified"] != true) return false;
  }
  return !runs.empty();
}

}  // namespace mose::lab
