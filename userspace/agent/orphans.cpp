// SPDX-License-Identifier: MIT
#include "agent/orphans.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "agent/durable_file.h"
#include "agent/journal.h"
#include "agent/migration_paths.h"
#include "agent/node_uplink.h"
#include "agent/workloads.h"
#include "base/fd.h"
#include "base/log.h"
#include "handover/steering.h"
#include "handover/tap_holder.h"
#include "handover/workload_network.h"
#include "kernel/cgroup.h"
#include "kernel/netlink.h"
#include "kernel/process.h"

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

constexpr Nanoseconds kEndBound = std::chrono::seconds(5);  // for processes that were killed

std::vector<std::string> directories_in(const std::string& directory) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(directory, error)) {
    std::error_code ignored;
    if (item.is_directory(ignored)) out.push_back(item.path().filename());
  }
  std::ranges::sort(out);
  return out;
}

bool there(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool has_process(const std::string& cgroup) {
  auto group = Cgroup::open(cgroup);
  if (!group) return group.error().code != ENOENT;
  return group->populated().value_or(true);
}

// The registry says nothing of a record that it cannot read.
bool recorded(const Config& config, const std::string& name) { return there(config.node.state_dir + "/workloads/" + name + ".json"); }

// What this agent, or one before it, has made for a workload of that name: others may have groups and pins beside ours.
bool made_here(const Config& config, const std::string& name) {
  const WorkloadPaths paths = workload_paths(config, name);
  return there(paths.state_dir) || there(paths.runtime_dir);
}

bool has_something(const Config& config, const std::string& name) {
  const WorkloadPaths paths = workload_paths(config, name);
  return there(paths.cgroup) || there(paths.runtime_dir) || handover::Steering::pinned(pin_root(config), name) ||
         if_nametoindex(handover::host_device_name(name).c_str()) != 0;
}

// A mose-pager or its guardian, which is a clone of it.
struct PagerProcess {
  ProcessHandle process;
  std::string cgroup;  // whose memory it has
};

std::vector<std::string> words_of(pid_t pid) {
  constexpr size_t kWordsBytesMax = 64u << 10;
  std::vector<std::string> words;
  auto file = open_file(fmt::format("/proc/{}/cmdline", pid), O_RDONLY);
  auto text = file ? read_all(file->get(), kWordsBytesMax) : Result<std::string>(std::unexpected(file.error()));
  for (size_t at = 0; text && at < text->size();) {
    const size_t end = std::min(text->find('\0', at), text->size());
    words.push_back(text->substr(at, end - at));
    at = end + 1;
  }
  return words;
}

// Of this directory, and not of another that is called the same: a second agent may have a mount namespace of its own.
bool has_directory(pid_t pid, const std::string& directory) {
  struct stat ours {}, theirs {};
  return stat(directory.c_str(), &ours) == 0 && stat(fmt::format("/proc/{}/root{}", pid, directory).c_str(), &theirs) == 0 &&
         ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

std::vector<PagerProcess> pagers_of(const MigrationPaths& paths) {
  std::vector<PagerProcess> out;
  for (const std::string& name : directories_in("/proc")) {
    const auto pid = static_cast<pid_t>(std::strtol(name.c_str(), nullptr, 10));
    if (pid <= 0 || std::to_string(pid) != name) continue;
    auto process = ProcessHandle::open(pid);
    if (!process) continue;
    // Read behind the handle: it is of the process that is killed.
    const std::vector<std::string> words = words_of(pid);
    auto value = [&](const char* option) {
      auto it = std::ranges::find(words, option);
      return it == words.end() || it + 1 == words.end() ? std::string() : *(it + 1);
    };
    if (words.empty() || fs::path(words[0]).filename() != "mose-pager" || value("--socket") != paths.pager_socket) continue;
    if (!has_directory(pid, paths.dir)) continue;
    out.push_back({std::move(*process), value("--cgroup")});
  }
  return out;
}

// The programs that an earlier agent has left at the workload's device; nothing: none are pinned.
Result<std::optional<handover::Steering>> left_steering(const Config& config, const std::string& name) {
  if (!handover::Steering::pinned(pin_root(config), name)) return std::nullopt;
  MOSE_ASSIGN(handover::Steering steering, handover::Steering::adopt(pin_root(config), name));
  return steering;
}

// By the workload's programs, as everywhere; without them by its device.
Status shut_egress(const Config& config, const std::string& name) {
  MOSE_ASSIGN(auto steering, left_steering(config, name));
  if (steering) return steering->shut(handover::Direction::egress, true);
  const unsigned device = if_nametoindex(handover::host_device_name(name).c_str());
  if (device == 0) return {};
  MOSE_ASSIGN(Netlink netlink, Netlink::open());
  return netlink.change_link(device, {.up = false});
}

std::string remove_workload(const Config& config, const std::string& name) {
  WorkloadSpec spec;
  spec.name = name;
  if (auto removed = discard_workload(config, spec, kEndBound); !removed) return removed.error().what;
  return fmt::format("what was left of {}, which no record names, is removed: processes, cgroup, network, pins", name);
}

std::string remove_migration(const Config& config, const std::string& id, bool packets_held) {
  auto removed = discard_migration(config, id, packets_held);
  if (!removed) return fmt::format("migration {}: {}", id, removed.error().what);
  return fmt::format("what was left of migration {}, of which there is no journal, is removed: {} and {} processes", id,
                     migration_paths(config, *MigrationId::parse(id)).dir, *removed);
}

}  // namespace

Orphans find_orphans(const Config& config, const OrphanClaims& claims) {
  Orphans out;
  const std::string journal_dir = config.node.state_dir + "/journal";
  auto journals = list_journals(journal_dir);
  if (!journals) {
    out.left_alone = fmt::format("what no record names is left alone: {} cannot be read: {}", journal_dir, journals.error().what);
    return out;
  }
  OrphanClaims journalled;
  for (const JournalEntry& entry : *journals) {
    journalled.migrations.insert(entry.id.hex());
    if (entry.contents) {
      journalled.workloads.insert(entry.contents->meta.workload);
    } else {
      out.left_alone = fmt::format("trees that no record names are left alone: one may be what {} speaks of, which cannot be read", entry.path);
    }
  }
  for (const std::string& id : directories_in(config.node.runtime_dir + "/migrations")) {
    if (MigrationId::parse(id) && !claims.migrations.contains(id) && !journalled.migrations.contains(id)) out.migrations.push_back(id);
  }
  if (!out.left_alone.empty()) return out;
  std::set<std::string> names;
  for (const std::string& directory : {config.node.cgroup, config.node.runtime_dir + "/workloads", config.node.state_dir + "/workloads"}) {
    for (std::string& name : directories_in(directory)) names.insert(std::move(name));
  }
  for (const std::string& name : names) {
    const bool ours = !claims.workloads.contains(name) && !journalled.workloads.contains(name) && !recorded(config, name) && made_here(config, name);
    if (ours && has_something(config, name)) out.workloads.push_back(name);
  }
  return out;
}

void drop_claimed(Orphans& orphans, const OrphanClaims& claims) {
  std::erase_if(orphans.migrations, [&](const std::string& id) { return claims.migrations.contains(id); });
  std::erase_if(orphans.workloads, [&](const std::string& name) { return claims.workloads.contains(name); });
}

std::vector<std::string> describe(const Config& config, const Orphans& orphans) {
  std::vector<std::string> lines;
  if (!orphans.left_alone.empty()) lines.push_back(orphans.left_alone);
  for (const std::string& name : orphans.workloads) {
    const std::string cgroup = workload_paths(config, name).cgroup;
    lines.push_back(fmt::format("{} is named by no record: {}{}", name, cgroup, has_process(cgroup) ? " has processes, which end" : ""));
  }
  for (const std::string& id : orphans.migrations) {
    const MigrationPaths paths = migration_paths(config, *MigrationId::parse(id));
    std::string pids;
    for (const PagerProcess& pager : pagers_of(paths)) pids += fmt::format(" {}", pager.process.pid());
    lines.push_back(fmt::format("migration {} has no journal: {}{}", id, paths.dir, pids.empty() ? "" : ", pager and guardian" + pids));
  }
  return lines;
}

Status discard_workload(const Config& config, const WorkloadSpec& spec, Nanoseconds bound) {
  if (auto shut = shut_egress(config, spec.name); !shut && has_process(workload_paths(config, spec.name).cgroup)) {
    return context(fmt::format("{} is left alone: what it would send to its clients at its end cannot be kept back", spec.name), shut.error());
  }
  return remove_workload_resources(config, spec, bound);
}

bool may_have_answered(const Config& config, const std::string& name) {
  using handover::SteerState;
  auto steering = left_steering(config, name);
  if (!steering || !*steering) return true;
  auto policy = (*steering)->policy(handover::Direction::egress);
  return !policy || (policy->state != SteerState::hold && policy->state != SteerState::shut);
}

Result<size_t> discard_migration(const Config& config, const std::string& id, bool packets_held) {
  const MigrationPaths paths = migration_paths(config, *MigrationId::parse(id));
  std::vector<PagerProcess> pagers = pagers_of(paths);
  for (const PagerProcess& pager : pagers) {
    if (!has_process(pager.cgroup)) continue;
    return fail(fmt::format("left alone, its pager (pid {}) has the memory of the workload in {}, which still has processes", pager.process.pid(), pager.cgroup));
  }
  if (packets_held && pagers.empty() && (there(paths.ingress_holder) || there(paths.egress_holder))) {
    return fail("left alone, it may keep packets of a workload here; `mose status` names it, `mose steer release` ends that");
  }
  for (const PagerProcess& pager : pagers) (void)pager.process.signal(SIGKILL);
  for (const PagerProcess& pager : pagers) {
    if (auto ended = pager.process.wait_ended(kEndBound); !ended) return context(fmt::format("pid {}", pager.process.pid()), ended.error());
  }
  handover::TapHolder::end_left(paths.ingress_holder);
  handover::TapHolder::end_left(paths.egress_holder);
  if (auto removed = remove_wiped(paths.dir); !removed) return std::unexpected(removed.error());
  return pagers.size();
}

// Trees first: a pager ends only when nobody is left who could ask for a page.
std::vector<std::string> remove_orphans(const Config& config, const Orphans& orphans, bool packets_held) {
  std::vector<std::string> lines;
  auto tell = [&](std::string line, const std::string& migration = {}) {
    const log::ForMigration named(migration);
    log::warn("nobody's remains", {{"line", line}});
    lines.push_back(std::move(line));
  };
  if (!orphans.left_alone.empty()) tell(orphans.left_alone);
  for (const std::string& name : orphans.workloads) tell(remove_workload(config, name));
  for (const std::string& id : orphans.migrations) tell(remove_migration(config, id, packets_held), id);
  return lines;
}

}  // namespace mose::agent
