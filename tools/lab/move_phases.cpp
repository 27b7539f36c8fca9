// SPDX-License-Identifier: MIT
#include "lab/move_phases.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace mose::lab {

client::PhaseBounds phase_bounds(const std::string& report) {
  client::PhaseBounds out;
  auto json = nlohmann::ordered_json::parse(report, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("timeline") || !json["timeline"].is_array()) return out;
  // A hold comes before its freeze, a freeze before its dump: the earliest word that the move has says where it began.
  int64_t hold = 0, freeze = 0, dump = 0;
  for (const auto& entry : json["timeline"]) {
    if (!entry.is_object() || !entry.contains("phase") || !entry["phase"].is_string()) continue;
    std::string phase = entry["phase"].get<std::string>();
    int64_t start = entry.value("start_us", int64_t{0}) * 1000, end = entry.value("end_us", int64_t{0}) * 1000;
    if (phase == "precopy_1") out.precopy_ns = start;
    if (phase == "hold") hold = std::max(hold, start);
    if (phase == "freeze") freeze = std::max(freeze, start);
    if (phase == "dump") dump = std::max(dump, start);
    if (phase == "activate" || phase == "drain" || phase == "commit") out.resumed_ns = std::max(out.resumed_ns, end);
  }
  out.handover_ns = hold ? hold : freeze ? freeze : dump;
  return out;
}

}  // namespace mose::lab
