// SPDX-License-Identifier: MIT
#include "lab/load_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "client/phases.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;

std::string who(const Json& run) {
  return run["baseline"].is_string() ? run["baseline"].get<std::string>() : "mose";
}

std::optional<double> figure(const Json& run, const char* phase, const char* name) {
  const Json& phases = run["client"]["phases"];
  if (!phases.is_object() || !phases[phase].is_object() || !phases[phase][name].is_number()) return std::nullopt;
  return phases[phase][name].get<double>();
}

std::optional<double> median(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::sort(values.begin(), values.end());
  size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::string cell(std::optional<double> v, double unit, int precision) {
  return v ? fmt::format("{:.{}f}", *v / unit, precision) : "-";
}

std::vector<double> all(const std::vector<const Json*>& runs, const char* phase, const char* name) {
  std::vector<double> out;
  for (const Json* run : runs) {
    if (auto v = figure(*run, phase, name)) out.push_back(*v);
  }
  return out;
}

// Median of each run's own ratio to before.
std::optional<double> against_before(const std::vector<const Json*>& runs, const char* phase, const char* name) {
  std::vector<double> out;
  for (const Json* run : runs) {
    auto a = figure(*run, phase, name), b = figure(*run, "before", name);
    if (a && b && *b > 0) out.push_back(*a / *b);
  }
  return median(out);
}

std::string phase_lines(const std::string& name, const std::vector<const Json*>& runs) {
  std::string out;
  for (const char* phase : client::kPhaseNames) {
    std::vector<double> max = all(runs, phase, "latency_max_us");
    if (max.empty()) continue;
    auto mid = [&](const char* figure_name) { return median(all(runs, phase, figure_name)); };
    out += fmt::format("  {:<12} {:<9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>7}\n", name, phase,
                       cell(mid("answers_per_s"), 1, 0), cell(mid("latency_p50_us"), 1000, 2),
                       cell(mid("latency_p99_us"), 1000, 2), cell(mid("latency_p999_us"), 1000, 2),
                       cell(*std::max_element(max.begin(), max.end()), 1000, 1), cell(mid("longest_gap_ms"), 1, 1), cell(mid("server_cpu_us"), 1, 2),
                       cell(against_before(runs, phase, "server_cpu_us"), 1, 3),
                       cell(against_before(runs, phase, "latency_p99_us"), 1, 2),
                       cell(against_before(runs, phase, "answers_per_s"), 1, 3));
  }
  return out;
}

std::string tcp_line(const std::string& name, const std::vector<const Json*>& runs, const char* side) {
  constexpr const char* kCounters[] = {"timeouts", "tail_loss_probes", "other_retransmits", "resets_sent",
                                       "resets_received"};
  std::string out = fmt::format("  {:<12} {:<9}", name, side);
  auto seen = static_cast<size_t>(
      std::count_if(runs.begin(), runs.end(), [&](const Json* run) { return (*run)["tcp"][side].is_object(); }));
  if (seen == 0) return {};
  for (const char* counter : kCounters) {
    std::optional<uint64_t> sum;
    for (const Json* run : runs) {
      const Json& tcp = (*run)["tcp"][side];
      if (tcp.is_object() && tcp[counter].is_number()) sum = sum.value_or(0) + tcp[counter].get<uint64_t>();
    }
    out += fmt::format(" {:>10}", sum ? std::to_string(*sum) : "-");
  }
  return out + fmt::format("  n={}\n", seen);
}

}  // namespace

std::string load_table(const Json& runs) {
  std::vector<std::pair<std::string, std::vector<const Json*>>> groups;
  for (const Json& run : runs) {
    auto it = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == who(run); });
    if (it == groups.end()) it = groups.insert(groups.end(), {who(run), {}});
    it->second.push_back(&run);
  }
  std::string phases, tcp;
  for (const auto& [name, members] : groups) {
    phases += phase_lines(name, members);
    for (const char* side : {"client", "workload"}) tcp += tcp_line(name, members, side);
  }
  std::string out;
  if (!phases.empty()) {
    out +=
        "\nload by phase (medians; max: of all runs; gap: the probes' longest; x: the run's own ratio to before), ms and us of CPU per "
        "answer\n";
    out += fmt::format("  {:<12} {:<9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>7}\n", "who", "phase",
                       "answers/s", "p50", "p99", "p99.9", "max", "gap", "CPU us", "CPU x", "p99 x", "rate x");
    out += phases;
  }
  if (!tcp.empty()) {
    out += "\nTCP over the moves, all runs together\n";
    out += fmt::format("  {:<12} {:<9} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "who", "side", "timeouts", "probes",
                       "other rtx", "RST sent", "RST in");
    out += tcp;
  }
  return out;
}

}  // namespace mose::lab
