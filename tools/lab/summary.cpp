// SPDX-License-Identifier: MIT
#include "lab/summary.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;

// Each figure is summarised over the runs that have it.
struct Figure {
  const char* name;
  const char* object;  // the object of a run that holds it, or null for the run itself
};
constexpr Figure kFigures[] = {{"service_interruption_ms", nullptr}, {"interruption_any_ms", nullptr},
                               {"downtime_ms", nullptr},             {"total_ms", nullptr},
                               {"bytes_sent", nullptr},              {"latency_p50_us", "client"},
                               {"latency_p99_us", "client"},         {"latency_max_us", "client"}};

std::vector<double> values(const std::vector<const Json*>& runs, const Figure& figure) {
  std::vector<double> out;
  for (const Json* run : runs) {
    const Json* from = run;
    if (figure.object) {
      auto inner = run->find(figure.object);
      if (inner == run->end() || !inner->is_object()) continue;
      from = &*inner;
    }
    auto it = from->find(figure.name);
    if (it != from->end() && it->is_number()) out.push_back(it->get<double>());
  }
  std::sort(out.begin(), out.end());
  return out;
}

Json statistics(const std::vector<double>& sorted) {
  if (sorted.empty()) return {{"median", nullptr}, {"p95", nullptr}, {"max", nullptr}};
  size_t n = sorted.size();
  double median = n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  auto rank = static_cast<size_t>(std::ceil(0.95 * static_cast<double>(n)));
  return {{"median", median}, {"p95", sorted[rank - 1]}, {"max", sorted.back()}};
}

struct Group {
  Json role, baseline, strategy;
  std::vector<const Json*> runs;
};

std::vector<Group> group(const Json& runs) {
  std::vector<Group> out;
  for (const Json& run : runs) {
    auto same = [&](const Group& g) {
      return g.role == run["role"] && g.baseline == run["baseline"] && g.strategy == run["strategy"];
    };
    auto it = std::find_if(out.begin(), out.end(), same);
    if (it == out.end()) it = out.insert(out.end(), {run["role"], run["baseline"], run["strategy"], {}});
    it->runs.push_back(&run);
  }
  return out;
}

Json ratio(const Json& figures, const Json& baseline, const char* name) {
  const Json& a = figures[name]["median"];
  const Json& b = baseline[name]["median"];
  if (!a.is_number() || !b.is_number() || b.get<double>() <= 0) return nullptr;
  return a.get<double>() / b.get<double>();
}

}  // namespace

Json summarise(const Json& runs) {
  Json groups = Json::array(), ratios = Json::array();
  for (const Group& g : group(runs)) {
    Json figures = Json::object();
    for (const Figure& figure : kFigures) figures[figure.name] = statistics(values(g.runs, figure));
    auto verified = std::count_if(g.runs.begin(), g.runs.end(), [](const Json* run) { return (*run)["verified"] == true; });
    groups.push_back({{"role", g.role}, {"baseline", g.baseline}, {"strategy", g.strategy}, {"runs", g.runs.size()},
                      {"verified", verified}, {"figures", figures}});
  }
  for (const Json& mine : groups) {
    if (mine["role"] != "mose") continue;
    for (const Json& other : groups) {
      if (other["role"] != "baseline") continue;
      Json entry = {{"strategy", mine["strategy"]}, {"baseline", other["baseline"]}};
      for (const Figure& figure : kFigures) entry[figure.name] = ratio(mine["figures"], other["figures"], figure.name);
      ratios.push_back(entry);
    }
  }
  return {{"groups", groups}, {"ratios", ratios}};
}

}  // namespace mose::lab
