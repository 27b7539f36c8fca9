// SPDX-License-Identifier: MIT
// How the registry of workloads finds everything again when the agent starts, and what others have started.
#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>

#include "agent/durable_file.h"
#include "agent/workloads_entry.h"
#include "base/directory.h"
#include "base/log.h"
#include "kernel/cgroup.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose::agent {
namespace {

constexpr size_t kRecordMax = 1u << 20;
constexpr Nanoseconds kLookPeriod = std::chrono::seconds(2);  // for described workloads that are not there yet

// Names without their ending of the files in a directory; a missing directory has none.
std::vector<std::string> names_with_ending(const std::string& directory, std::string_view ending) {
  std::vector<std::string> names;
  Directory dir = open_directory(directory);
  if (!dir) return names;
  while (dirent* item = readdir(dir.get())) {
    std::string name = item->d_name;
    if (name.size() > ending.size() && name.ends_with(ending) && name[0] != '.') {
      names.push_back(name.substr(0, name.size() - ending.size()));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The first process of a described workload: the one whose parent is outside the cgroup.
Result<ProcessHandle> first_process(const WorkloadDescription& description) {
  if (description.pid != 0) return ProcessHandle::open(description.pid);
  MOSE_ASSIGN(Cgroup cgroup, Cgroup::open(description.cgroup));
  MOSE_ASSIGN(auto pids, cgroup.procs());
  for (pid_t pid : pids) {
    auto process = ProcessHandle::open(pid);
    if (!process) continue;
    auto parent = parent_pid(*process);
    if (parent && std::find(pids.begin(), pids.end(), *parent) == pids.end()) return process;
  }
  return fail(fmt::format("cgroup {} has no process", description.cgroup));
}

// The device of this node that is the other end of the process' eth0; empty when there is none.
std::string host_end(const ProcessHandle& process) {
  auto netns = open_netns(process.pid());
  if (!netns) return {};
  auto inside = in_netns_get<Netlink::LinkInfo>(netns->get(), []() -> Result<Netlink::LinkInfo> {
    MOSE_ASSIGN(Netlink netlink, Netlink::open());
    return netlink.link("eth0");
  });
  auto own = Netlink::open();
  if (!inside || !own || inside->peer == 0) return {};
  // The number counts in the peer's namespace, which need not be ours: only a device that points back is it.
  auto link = own->link(inside->peer);
  return link && link->peer == inside->ifindex ? link->name : std::string();
}

}  // namespace

Status Workloads::load() {
  std::string directory = config_.node.state_dir + "/workloads";
  MOSE_TRY(make_directories(directory));
  for (const std::string& name : names_with_ending(directory, ".json")) load_one(fmt::format("{}/{}.json", directory, name));
  load_descriptions();
  look_timer_ = loop_.every(kLookPeriod, [this] {
    for (auto& [name, entry] : entries_) {
      if (entry->description && entry->workload.state == WorkloadState::waiting) find_described(*entry);
      if (entry->unsaved && save(*entry)) log::info("a workload's record is written", {{"workload", name}});
    }
  });
  return {};
}

void Workloads::load_one(const std::string& path) {
  auto text = read_file(path, kRecordMax);
  auto record = text ? decode_record(*text) : Result<WorkloadRecord>(std::unexpected(text.error()));
  if (!record) {
    problems_.push_back(fmt::format("{}: {}", path, record.error().what));
    log::error("a workload's record cannot be used", {{"file", path}, {"reason", record.error().what}});
    return;
  }
  auto entry = std::make_unique<Entry>();
  Workload& workload = entry->workload;
  workload = record->workload;
  const std::string name = workload.spec.name;
  if (record->pid != 0 && record->boot == boot_id()) {
    if (auto process = ProcessHandle::open_same(record->pid, record->start_time); process && process->alive()) {
      workload.init = std::make_shared<const ProcessHandle>(std::move(*process));
    }
  }
  Entry& kept = *entry;
  entries_[name] = std::move(entry);
  switch (workload.state) {
    case WorkloadState::starting:
    case WorkloadState::stopping:
      // The agent died in the middle: to the end of it, which is the same for both.
      log::warn("an interrupted start or stop is cleaned up", {{"workload", name}});
      stop(name, config_.limits.stop_grace, [](Answer<const Workload*>) {});
      break;
    case WorkloadState::running:
    case WorkloadState::moving:
      if (workload.init) {
        watch(kept);
        log::info("workload adopted", {{"workload", name}, {"pid", workload.init->pid()}});
      } else if (workload.state == WorkloadState::running) {
        workload.exit_status = "unknown: it ended while the agent was not running";
        change(kept, WorkloadState::exited, fmt::format("workload {} ended while the agent was not running", name));
      }
      break;
    case WorkloadState::arriving:
    case WorkloadState::exited:
    case WorkloadState::away:
    case WorkloadState::waiting:
      break;
  }
}

void Workloads::load_descriptions() {
  for (const std::string& name : names_with_ending(config_.node.workloads_dir, ".toml")) {
    std::string path = config_.node.workloads_dir + "/" + name + ".toml";
    auto text = read_file(path, kRecordMax);
    auto description =
        text ? parse_description(name, *text, path) : Result<WorkloadDescription>(std::unexpected(text.error()));
    if (!description) {
      problems_.push_back(description.error().what);
      log::error("a workload's description cannot be used", {{"reason", description.error().what}});
      continue;
    }
    if (entries_.contains(name)) continue;  // on its way elsewhere, or somebody ran one of that name
    auto entry = std::make_unique<Entry>();
    Workload& workload = entry->workload;
    workload.spec = description->spec;
    workload.origin = WorkloadOrigin::described;
    workload.cgroup = description->cgroup;
    workload.since_unix_ms = unix_now_ms();
    workload.state = WorkloadState::waiting;
    entry->description = std::move(*description);
    Entry& kept = *entry;
    entries_[name] = std::move(entry);
    find_described(kept);
  }
}

bool Workloads::find_described(Entry& entry) {
  auto process = first_process(*entry.description);
  if (!process || !process->alive()) return false;
  Workload& workload = entry.workload;
  workload.init = std::make_shared<const ProcessHandle>(std::move(*process));
  workload.host_device = host_end(*workload.init);
  workload.exit_status.clear();
  if (workload.cgroup.empty()) {
    if (auto group = Cgroup::of_process(workload.init->pid())) workload.cgroup = group->path();
  }
  change(entry, WorkloadState::running, fmt::format("workload {} was found running", workload.spec.name));
  watch(entry);
  return true;
}

}  // namespace mose::agent
