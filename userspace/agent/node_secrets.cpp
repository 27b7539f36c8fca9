// SPDX-License-Identifier: MIT
#include "agent/node_secrets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "agent/workloads.h"

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

// Without links; empty where it is not there.
std::string canonical(const std::string& path) {
  std::error_code error;
  return fs::canonical(path, error).string();
}

bool is_inside(const std::string& path, const std::string& directory) {
  if (directory == "/") return true;
  return path == directory || path.starts_with(directory + "/");
}

std::string key_directory(const Config& config) {
  if (config.tls.plain_text || config.tls.key.empty()) return {};
  return canonical(fs::path(config.tls.key).parent_path().string());
}

std::vector<std::string> secret_directories(const Config& config) {
  std::vector<std::string> out;
  const std::string control = fs::path(config.control.socket).parent_path().string();
  for (std::string directory : {key_directory(config), canonical(config.node.state_dir), canonical(config.node.runtime_dir), canonical(control)}) {
    if (directory.empty() || std::ranges::any_of(out, [&](const auto& other) { return is_inside(directory, other); })) continue;
    std::erase_if(out, [&](const auto& other) { return is_inside(other, directory); });
    out.push_back(std::move(directory));
  }
  return out;
}

std::optional<uint64_t> mount_of(const std::string& path) {
  struct statx info {};
  if (statx(AT_FDCWD, path.c_str(), 0, STATX_MNT_ID, &info) != 0 || (info.stx_mask & STATX_MNT_ID) == 0) return std::nullopt;
  return info.stx_mnt_id;
}

// Where a directory of the node lies in what a workload gets of `place`: that mount alone, without those below it.
std::optional<std::string> shown_at(const std::string& directory, const std::string& place) {
  const std::string root = canonical(place);
  if (root.empty() || !is_inside(directory, root) || mount_of(directory) != mount_of(root)) return std::nullopt;
  const std::string below = root == "/" ? directory : directory.substr(root.size());
  return below.empty() ? "/" : below;
}

bool is_declared(const WorkloadSpec& spec, const std::string& target) {
  return std::ranges::any_of(spec.mounts, [&](const WorkloadMount& mount) { return mount.target == target; });
}

// Of `directory`, or what is in it: a mount of a workload's own log lies in the agent's state.
bool shows(const WorkloadMount& mount, const std::string& directory, const std::string& keys) {
  return shown_at(directory, mount.source) || (!keys.empty() && is_inside(canonical(mount.source), keys));
}

Answer<void> check_declared(const Config& config, const WorkloadSpec& spec) {
  const std::string keys = key_directory(config);
  for (const WorkloadMount& mount : spec.mounts) {
    if (!keys.empty() && shows(mount, keys, keys)) {
      return refuse(fmt::format("mount source {} shows the workload this node's key in {}: declare only what it needs of it, or put tls.key "
                                "into a directory of its own",
                                mount.source, keys));
    }
    for (const std::string& directory : secret_directories(config)) {
      if (!shows(mount, directory, keys)) continue;
      return refuse(fmt::format("mount source {} shows the workload the agent's own {}: declare only what it needs of it", mount.source, directory));
    }
  }
  return {};
}

}  // namespace

Answer<void> hide_node_secrets(const Config& config, WorkloadSpec& spec) {
  if (auto ok = check_declared(config, spec); !ok) return ok;
  std::vector<WorkloadMount> hidden;
  for (const std::string& directory : secret_directories(config)) {
    auto target = shown_at(directory, spec.root);
    if (!target || is_declared(spec, *target)) continue;
    if (target->find('/', 1) == std::string::npos) {
      return refuse(fmt::format("{} of this node would have to be hidden from the workload, which may need it: put tls.key, "
                                "control.socket, node.state_dir and node.runtime_dir into directories of their own",
                                directory));
    }
    // An empty directory of every node.
    hidden.push_back({kWorkloadLogTarget, *target, MountMode::identical, true});
  }
  spec.mounts.insert(spec.mounts.begin(), hidden.begin(), hidden.end());
  return {};
}

std::string shown_node_secrets(const Config& config, const WorkloadSpec& spec) {
  std::string out;
  for (const std::string& directory : secret_directories(config)) {
    bool shown = false;
    if (auto target = shown_at(directory, spec.root))
      shown = std::ranges::none_of(spec.mounts, [&](const WorkloadMount& mount) { return is_inside(*target, mount.target); });
    for (const WorkloadMount& mount : spec.mounts) shown = shown || shows(mount, directory, key_directory(config));
    if (shown) out += (out.empty() ? "" : ", ") + directory;
  }
  return out;
}

}  // namespace mose::agent
