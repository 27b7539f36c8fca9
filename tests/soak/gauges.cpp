// SPDX-License-Identifier: MIT
#include "gauges.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>

#include "base/fd.h"
#include "bpf_objects.h"
#include "lab/inventory.h"
#include "lab/lab_processes.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;

// Of a line like "VmRSS:	   12345 kB" or "Threads:	4"; 0 where it is not there, as of a zombie.
double status_line(const std::string& status, std::string_view label) {
  size_t at = status.find(label);
  if (at == std::string::npos) return 0;
  at = status.find_first_not_of(" \t", at + label.size());
  uint64_t value = 0;
  if (at != std::string::npos) std::from_chars(status.data() + at, status.data() + status.size(), value);
  return static_cast<double>(value);
}

double entries(const std::string& directory) {
  std::error_code error;
  double count = 0;
  for (auto it = fs::directory_iterator(directory, error); !error && it != fs::end(it); it.increment(error)) ++count;
  return count;
}

void add_process(const lab::LabProcess& process, Gauges& out) {
  const std::string proc = "/proc/" + std::to_string(process.pid);
  auto status = read_file(proc + "/status"), maps = read_file(proc + "/maps");
  if (!status || !maps) return;
  const auto add = [&](const char* what, double value) { out[process.name + " " + what] += value; };
  add("resident bytes", status_line(*status, "VmRSS:") * 1024);
  add("anonymous bytes", status_line(*status, "RssAnon:") * 1024);
  add("threads", status_line(*status, "Threads:"));
  add("descriptors", entries(proc + "/fd"));
  add("mappings", static_cast<double>(std::count(maps->begin(), maps->end(), '\n')));
}

bool is_number(const std::string& name) { return !name.empty() && name.find_first_not_of("0123456789") == std::string::npos; }

// By the node's own /proc: a control group does not list them.
double zombies(const std::string& root) {
  double count = 0;
  std::error_code error;
  for (auto it = fs::directory_iterator(root + "/proc", error); !error && it != fs::end(it); it.increment(error)) {
    if (!is_number(it->path().filename())) continue;
    auto stat = read_file(it->path() / "stat");
    const size_t name_end = stat ? stat->rfind(") ") : std::string::npos;
    if (name_end != std::string::npos && name_end + 2 < stat->size() && (*stat)[name_end + 2] == 'Z') ++count;
  }
  return count;
}

// Of a file system that nothing but the node uses: what has no name any more counts too.
double used_bytes(const std::string& mount) {
  struct statvfs figures {};
  if (::statvfs(mount.c_str(), &figures) != 0) return 0;
  return static_cast<double>(figures.f_blocks - figures.f_bfree) * static_cast<double>(figures.f_frsize);
}

double file_bytes(const std::string& top) {
  double sum = 0;
  std::error_code error, gone;
  fs::recursive_directory_iterator it(top, fs::directory_options::skip_permission_denied, error), end;
  for (; !error && it != end; it.increment(error)) {
    if (!it->is_regular_file(gone)) continue;
    const auto size = it->file_size(gone);
    if (!gone) sum += static_cast<double>(size);
  }
  return sum;
}

// An agent that is not of this lab.
Result<bool> others_run_agents(const lab::LabState& state) {
  const std::string own = state.cgroup.substr(state.cgroup.rfind('/')) + "/";
  std::error_code error;
  for (auto it = fs::directory_iterator("/proc", error); !error && it != fs::end(it); it.increment(error)) {
    if (!is_number(it->path().filename())) continue;
    auto name = read_file(it->path() / "comm"), group = read_file(it->path() / "cgroup");
    if (name && *name == "mosed\n" && group && group->find(own) == std::string::npos) return true;
  }
  if (error) return fail_errno("list /proc", error.value());
  return false;
}

}  // namespace

Result<std::map<std::string, Gauges>> read_nodes(const lab::LabState& state) {
  std::map<std::string, Gauges> out;
  MOSE_ASSIGN(auto inventory, lab::take_inventory(state));
  for (const auto& [item, count] : inventory) out[item.node]["of kind " + item.kind] += static_cast<double>(count);
  for (const char* node : lab::kNodes) {
    Gauges& gauges = out[node];
    MOSE_ASSIGN(auto processes, lab::node_processes(state, node));
    for (const lab::LabProcess& process : processes) add_process(process, gauges);
    const std::string root = "/proc/" + std::to_string(state.keepers.at(node).pid) + "/root";
    gauges["zombies"] = zombies(root);
    gauges["/run bytes"] = used_bytes(root + "/run");
    gauges["/tmp bytes"] = used_bytes(root + "/tmp");
    gauges["/var/lib/mose bytes"] = file_bytes(root + "/var/lib/mose");
  }
  return out;
}

Result<std::optional<Gauges>> read_kernel(const lab::LabState& state) {
  MOSE_ASSIGN(bool others, others_run_agents(state));
  if (others) return std::nullopt;
  MOSE_ASSIGN(BpfObjects objects, count_bpf_objects());
  return Gauges{{"BPF programs", static_cast<double>(objects.programs)},
                {"BPF maps", static_cast<double>(objects.maps)},
                {"BPF links", static_cast<double>(objects.links)}};
}

}  // namespace mose::test
