// SPDX-License-Identifier: MIT
#include "lab/agent_memory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/fd.h"
#include "lab/lab_processes.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;

// mose-guardian shares its pager's descriptors, and counts them once more: it keeps them alive by itself.
constexpr std::array<std::string_view, 4> kPrograms = {"mosed", "mose-pager", "mose-guardian", "mose-holder"};

std::optional<uint64_t> resident_bytes(const std::string& proc) {
  auto status = read_file(proc + "/status");
  if (!status) return std::nullopt;
  constexpr std::string_view kLabel = "VmRSS:";
  size_t at = status->find(kLabel);
  if (at == std::string::npos) return std::nullopt;  // a zombie has no memory
  at = status->find_first_not_of(" \t", at + kLabel.size());
  uint64_t kib = 0;
  auto [end, error] =
      std::from_chars(status->data() + std::min(at, status->size()), status->data() + status->size(), kib);
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
  auto resident = resident_bytes(proc);
  auto open = descriptors(proc);
  if (!resident || !open) return;
  Footprint& sum = out[{node, process.name}];
  ++sum.processes;
  sum.resident_bytes += *resident;
  sum.descriptors += *open;
}

Json one(const Footprints& all, const Footprints::key_type& key) {
  auto it = all.find(key);
  if (it == all.end()) return nullptr;
  return {{"processes", it->second.processes},
          {"resident_bytes", it->second.resident_bytes},
          {"descriptors", it->second.descriptors}};
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

Json footprints_json(const Footprints& first, const Footprints& last) {
  Footprints all = first;
  all.insert(last.begin(), last.end());
  Json out = Json::array();
  for (const auto& [key, unused] : all) {
    out.push_back({{"node", key.first}, {"program", key.second}, {"first", one(first, key)}, {"last", one(last, key)}});
  }
  return out;
}

}  // namespace mose::lab
