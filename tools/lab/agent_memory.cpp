// SPDX-License-Identifier: MIT
#include "lab/agent_memory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/fd.h"
#include "lab/lab_processes.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;

// mose-guardian shares its pager's descriptors, and counts them once more: it keeps them alive by itself.
constexpr std::array<std::string_view, 5> kPrograms = {"mosed", "mose-pager", "mose-guardian", "mose-holder",
                                                       "mose-throttle"};

// In bytes, of a line like "VmRSS:	   12345 kB".
std::optional<uint64_t> memory_line(const std::string& status, std::string_view label) {
  size_t at = status.find(label);
  if (at == std::string::npos) return std::nullopt;  // a zombie has no memory
  at = status.find_first_not_of(" \t", at + label.size());
  uint64_t kib = 0;
  auto [end, error] = std::from_chars(status.data() + std::min(at, status.size()), status.data() + status.size(), kib);
  if (error != std::errc{}) return std::nullopt;
  return kib * 1024;
}

std::optional<uint64_t> descriptors(const std::string& proc) {
  std::error_code error;
  uint64_t count = 0;
  for (auto it = std::filesystem::directory_iterator(proc + "/fd", error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    ++count;
  }
  return error ? std::nullopt : std::optional(count);
}

void add_process(const LabProcess& process, const std::string& node, Footprints& out) {
  if (std::find(kPrograms.begin(), kPrograms.end(), process.name) == kPrograms.end()) return;
  std::string proc = "/proc/" + std::to_string(process.pid);
  auto status = read_file(proc + "/status");
  if (!status) return;
  auto resident = memory_line(*status, "VmRSS:"), anonymous = memory_line(*status, "RssAnon:");
  auto open = descriptors(proc);
  if (!resident || !anonymous || !open) return;
  Footprint& sum = out[{node, process.name}];
  ++sum.processes;
  sum.resident_bytes += *resident;
  sum.anonymous_bytes += *anonymous;
  sum.descriptors += *open;
}

Json one(const Footprints& all, const Footprints::key_type& key) {
  auto it = all.find(key);
  if (it == all.end()) return nullptr;
  return {{"processes", it->second.processes},
          {"resident_bytes", it->second.resident_bytes},
          {"anonymous_bytes", it->second.anonymous_bytes},
          {"descriptors", it->second.descriptors}};
}

// Null where the program did not run at both times.
Json growth(const Json& first, const Json& last) {
  if (!first.is_object() || !last.is_object()) return nullptr;
  auto percent = [&](const char* name) -> Json {
    auto from = first[name].get<double>();
    return from > 0 ? Json((last[name].get<double>() / from - 1) * 100) : Json(nullptr);
  };
  return {{"resident_percent", percent("resident_bytes")},
          {"anonymous_percent", percent("anonymous_bytes")},
          {"descriptors", last["descriptors"].get<int64_t>() - first["descriptors"].get<int64_t>()}};
}

}  // namespace

Result<Footprints> agent_footprints(const LabState& state) {
  Footprints out;
  for (const char* node : kNodes) {
    MOSE_ASSIGN(auto processes, node_processes(state, node));
    for (const LabProcess& process : processes) add_process(process, node, out);
  }
  return out;
}

std::optional<size_t> warm_move(size_t moves) {
  constexpr size_t kEachOnce = 2;  // there and back
  size_t warm = kEachOnce + moves % 2;
  return warm < moves ? std::optional(warm) : std::nullopt;
}

Json agents_json(const std::vector<Footprints>& series) {
  std::set<Footprints::key_type> keys;
  for (const Footprints& at : series) {
    for (const auto& [key, unused] : at) keys.insert(key);
  }
  size_t warm = series.empty() ? 0 : warm_move(series.size() - 1).value_or(0);  // 0: too few moves
  Json out = Json::array();
  for (const auto& key : keys) {
    Json all = Json::array();
    for (const Footprints& at : series) all.push_back(one(at, key));
    Json first = warm > 0 ? one(series[warm], key) : Json(nullptr), last = all.back();
    out.push_back({{"node", key.first},
                   {"program", key.second},
                   {"warm_move", warm > 0 ? Json(warm) : Json(nullptr)},
                   {"first", first},
                   {"last", last},
                   {"growth", growth(first, last)},
                   {"series", all}});
  }
  return out;
}

}  // namespace mose::lab
