// SPDX-License-Identifier: MIT
#include "lab/lab_processes.h"

#include <filesystem>

#include "base/fd.h"
#include "kernel/cgroup.h"

namespace mose::lab {

Result<std::vector<LabProcess>> node_processes(const LabState& state, const std::string& node) {
  std::string top = state.cgroup + "/" + node;
  std::vector<std::string> groups = {top};
  std::error_code error;
  std::filesystem::recursive_directory_iterator it(top, error), end;
  if (error) return fail_errno("list " + top, error.value());
  for (; !error && it != end; it.increment(error)) {
    if (it->is_directory(error)) groups.push_back(it->path());
  }
  std::vector<LabProcess> out;
  for (const std::string& path : groups) {
    // A workload's group may have gone meanwhile.
    auto group = Cgroup::open(path);
    if (!group) continue;
    auto processes = group->procs();
    if (!processes) continue;
    for (pid_t pid : *processes) {
      auto name = read_file("/proc/" + std::to_string(pid) + "/comm");
      if (!name) continue;
      name->erase(name->find_last_not_of('\n') + 1);
      out.push_back({pid, std::move(*name), path});
    }
  }
  return out;
}

std::optional<pid_t> find_redis(const LabState& state, const std::string& node, const std::string& cgroup) {
  auto all = node_processes(state, node);
  if (!all) return std::nullopt;
  std::string place = state.cgroup + "/" + node + "/" + cgroup;
  std::optional<pid_t> found;
  for (const LabProcess& p : *all) {
    if (p.name != "redis-server" || (p.cgroup != place && !p.cgroup.starts_with(place + "/"))) continue;
    if (found) return std::nullopt;
    found = p.pid;
  }
  return found;
}

}  // namespace mose::lab
