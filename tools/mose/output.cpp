// SPDX-License-Identifier: MIT
#include "mose/output.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/units.h"
#include "mose/control/control.pb.h"

namespace mose::cli {
namespace {

using nlohmann::json;

std::string line(const json& value, int indent = -1) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace) + "\n";
}

template <typename Texts>
std::string join(const Texts& texts, const char* separator) {
  std::string out;
  for (const auto& text : texts) out += (out.empty() ? "" : separator) + std::string(text);
  return out;
}

json value_of(const control::v1::Workload& workload) {
  json mounts = json::array();
  for (const auto& mount : workload.mounts()) {
    mounts.push_back({{"source", mount.source()},
                      {"target", mount.target()},
                      {"mode", mount.mode()},
                      {"read_only", mount.read_only()}});
  }
  auto or_null = [](const std::string& text) { return text.empty() ? json() : json(text); };
  return {{"name", workload.name()},
          {"state", workload.state()},
          {"addresses", std::vector<std::string>(workload.addresses().begin(), workload.addresses().end())},
          {"pid", workload.pid() == 0 ? json() : json(workload.pid())},
          {"cgroup", or_null(workload.cgroup())},
          {"root", workload.root()},
          {"mounts", mounts},
          {"command", std::vector<std::string>(workload.command().begin(), workload.command().end())},
          {"origin", workload.origin()},
          {"host_device", or_null(workload.host_device())},
          {"log", or_null(workload.log())},
          {"migration_id", or_null(workload.migration())},
          {"node", or_null(workload.node())},
          {"exit_status", or_null(workload.exit_status())},
          {"since_unix_ms", workload.since_unix_ms()}};
}

json value_of(const control::v1::Memory& memory) {
  auto or_null = [](int64_t unix_ms) { return unix_ms == 0 ? json() : json(unix_ms); };
  json waiting = json::array();
  for (const auto& page : memory.waiting()) {
    waiting.push_back({{"process", page.process()}, {"address", fmt::format("{:#x}", page.address())}, {"since_unix_ms", page.since_unix_ms()}});
  }
  return {{"missing_pages", memory.missing_pages()},
          {"missing_bytes", memory.missing_bytes()},
          {"alarm", memory.alarm()},
          {"waiting_faults", memory.waiting_faults()},
          {"waiting_since_unix_ms", or_null(memory.waiting_since_unix_ms())},
          {"waiting", waiting},
          {"source_problem", memory.source_problem().empty() ? json() : json(memory.source_problem())},
          {"source_problem_since_unix_ms", or_null(memory.source_problem_since_unix_ms())}};
}

json value_of(const control::v1::Progress& progress) {
  return {{"migration_id", progress.migration_id()},
          {"workload", progress.workload()},
          {"source", progress.source()},
          {"destination", progress.destination()},
          {"role", progress.role()},
          {"phase", progress.phase()},
          {"round", progress.round()},
          {"bytes_done", progress.bytes_done()},
          {"bytes_total", progress.bytes_total() == 0 ? json() : json(progress.bytes_total())},
          {"before_commit", progress.before_commit()},
          {"elapsed_ms", progress.elapsed_ms()},
          {"memory", progress.has_memory() ? value_of(progress.memory()) : json()}};
}

json value_of(const control::v1::Closed& item) {
  auto or_null = [](int64_t ms) { return ms < 0 ? json() : json(ms); };
  return {{"workload", item.workload()},
          {"ingress", item.ingress()},
          {"egress", item.egress()},
          {"since_ms", or_null(item.since_ms())},
          {"expires_in_ms", or_null(item.expires_in_ms())},
          {"unclaimed", item.unclaimed()},
          {"reason", item.reason().empty() ? json() : json(item.reason())}};
}

std::string note_of(const control::v1::Workload& workload) {
  if (!workload.exit_status().empty()) return workload.exit_status();
  if (!workload.node().empty()) return "on " + workload.node();
  if (!workload.migration().empty()) return "migration " + workload.migration().substr(0, 8);
  return workload.log();
}

std::string clock_time(int64_t unix_ms) {
  return fmt::format("{:%Y-%m-%d %H:%M:%S}.{:03}", fmt::localtime(static_cast<std::time_t>(unix_ms / 1000)),
                     unix_ms % 1000);
}

std::string text_of(const json& report, const char* key) {
  auto it = report.find(key);
  return it != report.end() && it->is_string() ? it->get<std::string>() : std::string("-");
}

std::string count_of(const json& report, const char* key) {
  auto it = report.find(key);
  return it != report.end() && it->is_number() ? fmt::format("{}", it->get<uint64_t>()) : std::string("-");
}

std::string milliseconds_of(const json& report, const char* key) {
  auto it = report.find(key);
  return it != report.end() && it->is_number() ? fmt::format("{:.1f} ms", it->get<double>()) : std::string("-");
}

std::string short_id(const json& report) {
  return text_of(report, "migration_id").substr(0, 8);
}

}  // namespace

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string text;
    for (size_t i = 0; i < row.size(); ++i) text += fmt::format("{:<{}}", row[i], widths[i] + 2);
    while (!text.empty() && text.back() == ' ') text.pop_back();
    out += text + "\n";
  }
  return out;
}

std::string show(const control::v1::Workload& workload, bool as_json) {
  if (as_json) return line(value_of(workload));
  constexpr std::string_view kAsAsked = "stopped";  // by `mose stop`: no failure that would need its reason
  const bool stopped = workload.exit_status() == kAsAsked;
  std::string out = fmt::format("{} {} at {}", workload.name(), stopped ? kAsAsked : workload.state(), join(workload.addresses(), ", "));
  if (workload.pid() != 0) out += fmt::format(", pid {}", workload.pid());
  if (!stopped && !workload.exit_status().empty()) out += ": " + workload.exit_status();
  return out + "\n";
}

std::string show(const control::v1::WorkloadList& list, bool as_json) {
  if (as_json) {
    json out{{"workloads", json::array()},
             {"problems", std::vector<std::string>(list.problems().begin(), list.problems().end())}};
    for (const auto& workload : list.workloads()) out["workloads"].push_back(value_of(workload));
    return line(out);
  }
  std::vector<std::vector<std::string>> rows{{"NAME", "STATE", "ADDRESS", "PID", "NOTE"}};
  for (const auto& workload : list.workloads()) {
    rows.push_back({workload.name(), workload.state(), join(workload.addresses(), ","),
                    workload.pid() == 0 ? "-" : std::to_string(workload.pid()), note_of(workload)});
  }
  std::string out = format_table(rows);
  for (const std::string& problem : list.problems()) out += "not usable: " + problem + "\n";
  return out;
}

std::string show(const control::v1::NodeList& list, bool as_json) {
  if (as_json) {
    json out = json::array();
    for (const auto& node : list.nodes())
      out.push_back({{"name", node.name()}, {"address", node.address()}, {"self", node.self()},
                     {"problem", node.problem().empty() ? json() : json(node.problem())}});
    return line(out);
  }
  std::vector<std::vector<std::string>> rows{{"NAME", "ADDRESS", "STATE"}};
  for (const auto& node : list.nodes()) {
    const std::string good = node.self() ? "this node" : "ready for workloads of this node";
    rows.push_back({node.name(), node.address(), node.problem().empty() ? good : node.self() ? good + ": " + node.problem() : node.problem()});
  }
  return format_table(rows);
}

std::string show(const control::v1::CheckResult& result, bool as_json) {
  if (as_json) {
    json items = json::array();
    for (const auto& item : result.items()) {
      items.push_back({{"name", item.name()},
                       {"state", item.state()},
                       {"detail", item.detail()},
                       {"lost", item.lost()},
                       {"required", item.required()}});
    }
    json out{{"ok", result.ok()},
             {"items", items},
             {"reasons", std::vector<std::string>(result.reasons().begin(), result.reasons().end())}};
    // Of a move; of a host there is no destination.
    if (result.items().empty()) out["destination_asked"] = false;
    return line(out);
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& item : result.items()) {
    bool missing = item.state() != "yes";
    rows.push_back(
        {item.name(), missing && item.required() ? item.state() + " (required)" : item.state(), item.detail()});
    if (missing) rows.push_back({"", "", "lost without it: " + item.lost()});
  }
  std::string out = format_table(rows);
  for (const std::string& reason : result.reasons()) out += reason + "\n";
  if (result.items().empty()) {
    return out + (result.ok() ? "nothing stands in the way at this node; the destination looks at its own (memory, disk, address, files) "
                                "when a migration begins, before it touches anything\n"
                              : "");
  }
  return out + (result.ok() ? "this host can migrate\n" : "this host cannot migrate: something required is missing\n");
}

namespace {

std::string closed_service(const control::v1::Closed& item) {
  auto seconds = [](int64_t ms) { return fmt::format("{:.1f} s", static_cast<double>(ms) / 1e3); };
  if (!item.reason().empty()) {
    return fmt::format("what becomes of packets of {0} here is not known ({1}): an agent of the build whose programs these are "
                       "can tell, `mose stop {0}` removes them\n",
                       item.workload(), item.reason());
  }
  // As every migration has it for a while: after its commit, and where its workload has not arrived yet.
  const bool usual = !item.unclaimed() && item.expires_in_ms() < 0;
  const char* what = "wait or are dropped here";
  if (usual && item.ingress() == "redirect") what = "are redirected to where it runs";
  if (usual && item.ingress() == "shut" && item.egress() == "hold") what = "have nobody here yet";
  std::string out = fmt::format("packets of {} {}", item.workload(), what);
  if (item.since_ms() >= 0) out += " for " + seconds(item.since_ms());
  out += fmt::format(" (ingress {}, egress {}): ", item.ingress(), item.egress());
  if (item.expires_in_ms() >= 0) out += "ends by itself in " + seconds(item.expires_in_ms()) + ", ";
  if (!item.unclaimed()) return out + "its migration decides\n";
  return out + fmt::format("no migration will open it, `mose steer release {}` does\n", item.workload());
}

}  // namespace

std::string show(const control::v1::MigrationList& list, bool as_json) {
  if (as_json) {
    json out{{"migrations", json::array()}, {"closed", json::array()}, {"plain_text", list.plain_text()}};
    for (const auto& item : list.migrations()) out["migrations"].push_back(value_of(item));
    for (const auto& item : list.closed()) out["closed"].push_back(value_of(item));
    return line(out);
  }
  std::string closed;
  for (const auto& item : list.closed()) closed += closed_service(item);
  if (list.migrations().empty()) return "no migration is under way\n" + closed;
  std::vector<std::vector<std::string>> rows{{"ID", "WORKLOAD", "FROM", "TO", "PHASE", "TIME"}};
  // Why one is undecided, and what to try, is more than a column holds.
  std::string below;
  for (const auto& item : list.migrations()) {
    const std::string id = item.migration_id().substr(0, 8), phase = item.phase().substr(0, item.phase().find(':'));
    if (phase.size() < item.phase().size()) below += id + " is " + item.phase() + "\n";
    rows.push_back({id, item.workload(), item.source(), item.destination(), phase,
                    fmt::format("{:.1f} s", static_cast<double>(item.elapsed_ms()) / 1e3)});
  }
  return format_table(rows) + below + closed;
}

std::string show(const control::v1::Event& event, bool as_json) {
  if (as_json)
    return line(
        {{"unix_ms", event.unix_ms()}, {"kind", event.kind()}, {"subject", event.subject()}, {"text", event.text()}});
  return fmt::format("{} {} {}\n", clock_time(event.unix_ms()), event.kind(), event.text());
}

std::string show(const control::v1::Progress& progress, bool as_json) {
  if (as_json) return line(value_of(progress));
  std::string out = progress.phase();
  if (progress.round() != 0) out += fmt::format(" round {}", progress.round());
  if (progress.bytes_total() != 0) {
    constexpr size_t kWidth = 24;
    double share =
        std::min(1.0, static_cast<double>(progress.bytes_done()) / static_cast<double>(progress.bytes_total()));
    auto filled = static_cast<size_t>(share * kWidth);
    out += fmt::format(" [{}{}] {:3.0f}% of {}", std::string(filled, '#'), std::string(kWidth - filled, '.'),
                       share * 100, format_bytes(progress.bytes_total()));
  }
  return out + "\n";
}

std::string show(const control::v1::Pong& pong, bool as_json) {
  if (as_json)
    return line(
        {{"version", pong.version()}, {"node", pong.node()}, {"pid", pong.pid()}, {"protocol", pong.protocol()}});
  return fmt::format("mosed {} of node {}, pid {}\n", pong.version(), pong.node(), pong.pid());
}

std::string show(const control::v1::Recovery& recovery, bool as_json) {
  auto or_null = [](const std::string& text) { return text.empty() ? json() : json(text); };
  if (as_json) {
    json sides = json::array();
    for (const auto& side : recovery.sides()) {
      sides.push_back({{"node", side.node()},
                       {"role", side.role()},
                       {"record", or_null(side.record())},
                       {"recorded_unix_ms", side.recorded_unix_ms() == 0 ? json() : json(side.recorded_unix_ms())},
                       {"state", side.state()}});
    }
    return line({{"migration_id", recovery.migration_id()},
                 {"workload", or_null(recovery.workload())},
                 {"sides", sides},
                 {"action", recovery.action()},
                 {"certain", recovery.certain()},
                 {"what", recovery.what()},
                 {"warning", or_null(recovery.warning())},
                 {"confirm", recovery.confirm()},
                 {"done", recovery.done()}});
  }
  std::string text;
  for (const auto& side : recovery.sides()) {
    const std::string written = side.recorded_unix_ms() == 0 ? "" : " of " + clock_time(side.recorded_unix_ms());
    text += fmt::format("{} ({}): {}{}; {}\n", side.node(), side.role(), side.record().empty() ? "no record" : "journal: " + side.record(), written, side.state());
  }
  if (recovery.confirm()) text += recovery.certain() ? "certain: " : "BY YOUR WORD ALONE: ";
  text += recovery.what() + "\n";
  if (!recovery.warning().empty()) text += recovery.warning() + "\n";
  return text;
}

std::string show_notes(const std::vector<std::string>& notes, bool as_json) {
  if (as_json) return line({{"notes", notes}});
  return notes.empty() ? "" : join(notes, "\n") + "\n";
}

std::string show_json(const std::string& text, bool as_json) {
  auto value = json::parse(text, nullptr, false);
  return value.is_discarded() ? text + "\n" : line(value, as_json ? -1 : 2);
}

namespace {

std::string state_of(const json& direction) {
  std::string state = text_of(direction, "state");
  if (direction.value("tunnel", json()).is_object() && !direction.contains("after_drain")) {
    state += fmt::format(" (vxlan to {})", text_of(direction.at("tunnel"), "remote"));
  }
  if (direction.contains("after_drain")) state += ", then " + text_of(direction, "after_drain");
  if (direction.contains("expired")) state += " (" + text_of(direction, "expired") + " expired)";
  return state;
}

std::vector<std::string> counts_of(const json& counters) {
  auto frames = counters.value("frames", json::object());
  return {count_of(frames, "passed"), count_of(frames, "held"), count_of(frames, "redirected"), count_of(counters, "dropped")};
}

// "redis uplink: taken 12, tunnel-foreign 3": of a workload, what has been counted at all; empty: nothing.
std::string reasons_of(const json& service, const char* key, const char* direction) {
  auto found = service.find(key);
  if (found == service.end() || !found->is_object() || !found->contains("of_workload")) return "";
  std::vector<std::string> counted;
  const auto frames = found->at("of_workload").value("frames", json::object());
  for (const auto& [reason, count] : frames.items()) {
    if (count.is_number() && count != 0) counted.push_back(fmt::format("{} {}", reason, count.get<uint64_t>()));
  }
  return counted.empty() ? "" : fmt::format("{} {}: {}\n", text_of(service, "workload"), direction, join(counted, ", "));
}

}  // namespace

// First a workload, which has one state for all its addresses and one queue, then what each address has had of it.
std::string show_steering(const std::string& text, bool as_json) {
  auto services = json::parse(text, nullptr, false);
  if (as_json || !services.is_array()) return show_json(text, true);
  if (services.empty()) return "no service is steered here\n";
  std::vector<std::vector<std::string>> rows{{"SERVICE", "WORKLOAD", "DIRECTION", "STATE", "SINCE", "EXPIRES",
                                              "WAITING", "PASSED", "HELD", "REDIRECTED", "DROPPED"}};
  std::string below, workload;
  for (const json& service : services) {
    const bool first = std::exchange(workload, text_of(service, "workload")) != text_of(service, "workload");
    if (first && service.value("state", json()) == "unknown") {
      below += fmt::format("{} cannot be asked: {}\n", workload, text_of(service, "reason"));
    }
    for (const char* direction : {"ingress", "egress"}) {
      auto found = service.find(direction);
      if (found == service.end() || !first) continue;
      const json all = found->value("of_workload", json::object());
      rows.push_back({"(all)", workload, direction, state_of(*found), milliseconds_of(*found, "since_ms"),
                      milliseconds_of(*found, "expires_in_ms"), count_of(all, "waiting")});
      for (std::string& count : counts_of(all)) rows.back().push_back(std::move(count));
      below += reasons_of(service, direction, direction);
    }
    if (first) below += reasons_of(service, "uplink_tc", "uplink");
    for (const char* direction : {"ingress", "egress"}) {
      auto found = service.find(direction);
      if (found == service.end()) continue;
      rows.push_back({text_of(service, "service"), workload, direction, text_of(*found, "state"), "-", "-", "-"});
      for (std::string& count : counts_of(*found)) rows.back().push_back(std::move(count));
    }
  }
  return format_table(rows) + below;
}

std::string show_explanation(const std::string& text, bool as_json) {
  auto seen = json::parse(text, nullptr, false);
  if (as_json || !seen.is_object()) return show_json(text, true);
  std::string out = fmt::format("{} ({} of {}) {}\n", text_of(seen, "flow"), text_of(seen, "direction"),
                                text_of(seen, "workload"), text_of(seen, "why"));
  if (!seen.value("same_programs", true)) {
    out += "the programs at work are of another build than those that were asked\n";
  }
  return out;
}

namespace {

std::string show_bulk(const json& bulk) {
  auto number = [&](const char* name) { return bulk.contains(name) && bulk[name].is_number() ? bulk[name].get<double>() : 0.0; };
  if (number("bytes") == 0) return "";
  std::string out = fmt::format("  pages     {} as {}", format_bytes(static_cast<uint64_t>(number("bytes_uncompressed"))),
                                format_bytes(static_cast<uint64_t>(number("bytes"))));
  if (number("capped_ms") > 0) out += fmt::format(", {:.0f} ms of it held back by the cap", number("capped_ms"));
  return out + "\n";
}

std::string show_precopy(const json& precopy) {
  auto percent = precopy.find("throttle_percent");
  if (percent == precopy.end() || !percent->is_number()) return "";
  return fmt::format("  slowed    by up to {} % in pre-copy ({} rounds), where it stood still for {} in all\n",
                     percent->get<uint64_t>(), count_of(precopy, "rounds"), milliseconds_of(precopy, "throttled_ms"));
}

}  // namespace

std::string show_report(const std::string& text, bool as_json) {
  auto report = json::parse(text, nullptr, false);
  if (as_json || !report.is_object()) return show_json(text, true);
  auto word = [&](const char* key, const char* unknown) {
    std::string value = text_of(report, key);
    return value == "-" ? std::string(unknown) : value;
  };
  std::string out =
      fmt::format("{} of {} from {} to {}: {}", word("strategy", "move"), text_of(report, "workload"),
                  text_of(report, "source_node"), text_of(report, "destination_node"), word("outcome", "under way"));
  std::string reason = text_of(report, "reason");
  out += reason == "-" || reason.empty() ? "\n" : ": " + reason + "\n";
  out += fmt::format("  id        {}\n  downtime  {}\n  total     {}\n", text_of(report, "migration_id"),
                     milliseconds_of(report, "downtime_ms"), milliseconds_of(report, "total_ms"));
  if (auto phases = report.find("phases_ms"); phases != report.end() && phases->is_object()) {
    std::string listed;
    for (const char* name : {"quiesce", "freeze", "scan", "dump", "transfer", "restore", "commit", "drain"}) {
      auto phase = phases->find(name);
      if (phase != phases->end() && phase->is_number()) listed += fmt::format(" {} {:.1f}", name, phase->get<double>());
    }
    if (!listed.empty()) out += "  phases   " + listed + " ms\n";
  }
  if (auto precopy = report.find("precopy"); precopy != report.end() && precopy->is_object()) out += show_precopy(*precopy);
  if (auto bulk = report.find("bulk"); bulk != report.end() && bulk->is_object()) out += show_bulk(*bulk);
  return out;
}

std::string show_history(const std::string& text, bool as_json) {
  auto reports = json::parse(text, nullptr, false);
  if (as_json || !reports.is_array()) return show_json(text, true);
  if (reports.empty()) return "no migration has finished here\n";
  std::vector<std::vector<std::string>> rows{{"ID", "WORKLOAD", "FROM", "TO", "OUTCOME", "DOWNTIME", "TOTAL"}};
  for (const json& report : reports) {
    rows.push_back({short_id(report), text_of(report, "workload"), text_of(report, "source_node"),
                    text_of(report, "destination_node"), text_of(report, "outcome"),
                    milliseconds_of(report, "downtime_ms"), milliseconds_of(report, "total_ms")});
  }
  return format_table(rows);
}

}  // namespace mose::cli
