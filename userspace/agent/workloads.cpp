// SPDX-License-Identifier: MIT
#include "agent/workloads.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "agent/durable_file.h"
#include "agent/workload_record.h"
#include "agent/workload_start.h"
#include "base/check.h"
#include "base/log.h"
#include "handover/workload_network.h"
#include "kernel/cgroup.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kLaunchBound = std::chrono::seconds(10);
constexpr Nanoseconds kKillBound = std::chrono::seconds(5);
constexpr size_t kRecordMax = 1u << 20;
constexpr Nanoseconds kLookPeriod = std::chrono::seconds(2);  // for described workloads that are not there yet

int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Names without their ending of the files in a directory; a missing directory has none.
std::vector<std::string> names_with_ending(const std::string& directory, std::string_view ending) {
  std::vector<std::string> names;
  DIR* dir = opendir(directory.c_str());
  if (dir == nullptr) return names;
  while (dirent* item = readdir(dir)) {
    std::string name = item->d_name;
    if (name.size() > ending.size() && name.ends_with(ending) && name[0] != '.') {
      names.push_back(name.substr(0, name.size() - ending.size()));
    }
  }
  closedir(dir);
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

const char* to_string(WorkloadState state) {
  switch (state) {
    case WorkloadState::starting: return "starting";
    case WorkloadState::running: return "running";
    case WorkloadState::moving: return "moving";
    case WorkloadState::arriving: return "arriving";
    case WorkloadState::stopping: return "stopping";
    case WorkloadState::exited: return "exited";
    case WorkloadState::away: return "away";
    case WorkloadState::waiting: return "waiting";
  }
  return "?";
}

const char* to_string(WorkloadOrigin origin) {
  switch (origin) {
    case WorkloadOrigin::run: return "run";
    case WorkloadOrigin::described: return "described";
    case WorkloadOrigin::moved: return "moved";
  }
  return "?";
}

WorkloadPaths workload_paths(const Config& config, const std::string& name) {
  std::string state = config.node.state_dir + "/workloads/" + name;
  return {config.node.cgroup + "/" + name, state, state + "/log", config.node.runtime_dir + "/workloads/" + name};
}

struct Workloads::Entry {
  Workload workload;
  bool watched = false;
  bool busy = false;  // a worker starts or stops it
  std::optional<WorkloadDescription> description;
};

Workloads::Workloads(const Config& config, EventLoop& loop, WorkerPool& workers, Listener listener)
    : config_(config), loop_(loop), workers_(workers), listener_(std::move(listener)) {}

Workloads::~Workloads() {
  loop_.cancel(look_timer_);
  for (auto& [name, entry] : entries_) unwatch(*entry);
}

std::vector<const Workload*> Workloads::list() const {
  std::vector<const Workload*> out;
  for (const auto& [name, entry] : entries_) out.push_back(&entry->workload);
  return out;
}

const Workload* Workloads::find(const std::string& name) const {
  auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : &it->second->workload;
}

Workloads::Entry* Workloads::entry(const std::string& name) {
  auto it = entries_.find(name);
  return it == entries_.end() ? nullptr : it->second.get();
}

// ---- the disk --------------------------------------------------------------------------------------------------------

Status Workloads::save(const Entry& entry) {
  const Workload& workload = entry.workload;
  if (workload.origin == WorkloadOrigin::described && workload.state != WorkloadState::moving) {
    return remove_tree(config_.node.state_dir + "/workloads/" + workload.spec.name + ".json");
  }
  WorkloadRecord record{workload, 0, 0, boot_id()};
  if (workload.init) {
    record.pid = workload.init->pid();
    record.start_time = workload.init->start_time();
  }
  return replace_file(config_.node.state_dir + "/workloads/" + workload.spec.name + ".json", encode_record(record));
}

void Workloads::erase(const std::string& name) {
  auto it = entries_.find(name);
  if (it == entries_.end()) return;
  unwatch(*it->second);
  entries_.erase(it);
  if (auto status = remove_tree(config_.node.state_dir + "/workloads/" + name + ".json"); !status) {
    log::warn("a workload's record is left", {{"workload", name}, {"reason", status.error().what}});
  }
}

Status Workloads::load() {
  std::string directory = config_.node.state_dir + "/workloads";
  MOSE_TRY(make_directories(directory));
  for (const std::string& name : names_with_ending(directory, ".json")) load_one(directory + "/" + name + ".json");
  load_descriptions();
  look_timer_ = loop_.every(kLookPeriod, [this] {
    for (auto& [name, entry] : entries_) {
      if (entry->description && entry->workload.state == WorkloadState::waiting) find_described(*entry);
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
    auto description = text ? parse_description(name, *text, path) : Result<WorkloadDescription>(std::unexpected(text.error()));
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
    workload.since_unix_ms = unix_ms();
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

// ---- state -----------------------------------------------------------------------------------------------------------

void Workloads::change(Entry& entry, WorkloadState state, const std::string& sentence) {
  entry.workload.state = state;
  entry.workload.since_unix_ms = unix_ms();
  if (auto status = save(entry); !status) {
    log::error("a workload's record cannot be written", {{"workload", entry.workload.spec.name}, {"reason", status.error().what}});
  }
  listener_(entry.workload, sentence);
}

void Workloads::watch(Entry& entry) {
  MOSE_CHECK(entry.workload.init && !entry.watched, "watch a process once");
  std::string name = entry.workload.spec.name;
  auto status = loop_.watch(entry.workload.init->fd(), EPOLLIN, [this, name](uint32_t) { init_ended(name); });
  if (!status) {
    log::error("a workload cannot be watched", {{"workload", name}, {"reason", status.error().what}});
    return;
  }
  entry.watched = true;
}

void Workloads::unwatch(Entry& entry) {
  if (entry.watched) loop_.unwatch(entry.workload.init->fd());
  entry.watched = false;
}

void Workloads::init_ended(const std::string& name) {
  Entry* ended = entry(name);
  if (ended == nullptr) return;
  unwatch(*ended);
  Workload& workload = ended->workload;
  auto exit = workload.init->reap(Nanoseconds(0));  // ours when this agent started it or is its reaper
  // While it moves its end is the migration's business (it kills the source's tree itself), while it stops stop()'s.
  if (workload.state != WorkloadState::running) return;
  workload.exit_status = exit ? describe(*exit) : "unknown";
  workload.init.reset();
  change(*ended, workload.origin == WorkloadOrigin::described ? WorkloadState::waiting : WorkloadState::exited,
         fmt::format("workload {} has ended: {}", name, workload.exit_status));
}

Answer<void> Workloads::free_name(const std::string& name) {
  Entry* present = entry(name);
  if (present == nullptr) return {};
  const Workload& workload = present->workload;
  if (workload.state == WorkloadState::exited || workload.state == WorkloadState::away) return {};
  return refuse(fmt::format("a workload named {} is {} here already; choose another name or stop it first", name,
                            to_string(workload.state)));
}

// ---- run and stop ----------------------------------------------------------------------------------------------------

void Workloads::run(WorkloadSpec spec, Done done) {
  auto refuse_later = [&](Refusal refusal) {
    loop_.post([done, refusal] { done(std::unexpected(refusal)); });
  };
  // A record's name is a file's name: nothing is done with a name that is not one.
  if (auto status = validate(spec); !status) return refuse_later({2, status.error().what});
  if (auto ok = free_name(spec.name); !ok) return refuse_later(ok.error());
  for (const auto& [name, other] : entries_) {
    bool here = other->workload.state != WorkloadState::away && other->workload.state != WorkloadState::exited;
    for (const ServiceAddress& address : spec.addresses) {
      bool same = std::any_of(other->workload.spec.addresses.begin(), other->workload.spec.addresses.end(),
                              [&](const ServiceAddress& a) { return a.family == address.family && a.bytes == address.bytes; });
      if (here && same && name != spec.name) {
        return refuse_later({3, fmt::format("address {} is already used by workload {}; choose another",
                                            format_address(address), name)});
      }
    }
  }
  const std::string name = spec.name;
  auto before = entries_.contains(name) ? std::make_shared<Workload>(entries_[name]->workload) : nullptr;
  auto created = std::make_unique<Entry>();
  created->busy = true;
  created->workload.spec = spec;
  created->workload.since_unix_ms = unix_ms();
  entries_[name] = std::move(created);  // takes the name; nothing is on the disk or the host yet

  auto forget = [this, name, before] {
    if (before) {
      entries_[name]->workload = *before;
      entries_[name]->busy = false;
    } else {
      entries_.erase(name);
    }
  };
  auto started = [this, name, done](Result<ProcessHandle> init) {
    Entry& entry = *entries_.at(name);
    entry.busy = false;
    if (!init) {
      std::string reason = fmt::format("workload {} could not be started: {}", name, init.error().what);
      erase(name);
      return done(refuse(reason, 1));
    }
    entry.workload.init = std::make_shared<const ProcessHandle>(std::move(*init));
    change(entry, WorkloadState::running, fmt::format("workload {} runs", name));
    watch(entry);
    done(&entry.workload);
  };
  workers_.run([config = &config_, spec] { return check_start(*config, spec); },
               [this, name, done, forget, started, before](Answer<WorkloadSpec> checked) {
                 if (!checked) {
                   forget();
                   return done(std::unexpected(checked.error()));
                 }
                 Workload& workload = entries_.at(name)->workload;
                 WorkloadPaths paths = workload_paths(config_, name);
                 workload.spec = *checked;
                 workload.cgroup = paths.cgroup;
                 workload.host_device = handover::host_device_name(name);
                 workload.log = paths.log_dir + "/stdout.log";
                 change(*entries_.at(name), WorkloadState::starting, fmt::format("workload {} is starting", name));
                 // What an earlier one of this name left is removed first.
                 workers_.run(
                     [config = &config_, spec = *checked, leftovers = before != nullptr]() -> Result<ProcessHandle> {
                       if (leftovers) MOSE_TRY(remove_workload_resources(*config, spec, kKillBound));
                       return start_workload(*config, spec, kLaunchBound);
                     },
                     started);
               });
}

void Workloads::stop(const std::string& name, Nanoseconds grace, Done done) {
  auto refuse_later = [&](std::string reason, int code) {
    loop_.post([done, reason, code] { done(refuse(reason, code)); });
  };
  Entry* present = entry(name);
  if (present == nullptr) {
    return refuse_later(fmt::format("no workload named {} is known here; see mose workloads", name), 2);
  }
  Workload& workload = present->workload;
  if (workload.origin == WorkloadOrigin::described) {
    return refuse_later(fmt::format("workload {} was started by others; stop it where it was started", name), 3);
  }
  if (workload.state == WorkloadState::moving || workload.state == WorkloadState::arriving) {
    return refuse_later(fmt::format("workload {} is {} (migration {}); cancel that first", name, to_string(workload.state),
                                    workload.migration), 3);
  }
  if (present->busy) {
    return refuse_later(fmt::format("workload {} is {} already", name, to_string(workload.state)), 3);
  }
  unwatch(*present);
  present->busy = true;
  change(*present, WorkloadState::stopping, fmt::format("workload {} is stopping", name));
  workers_.run(
      [config = &config_, spec = workload.spec, init = workload.init, grace] {
        static const ProcessHandle kNone;
        return stop_workload(*config, spec, init ? *init : kNone, grace);
      },
      [this, name, done](Status status) {
        Entry* stopped = entry(name);
        if (stopped == nullptr) return;
        stopped->busy = false;
        if (stopped->workload.init) (void)stopped->workload.init->reap(Nanoseconds(0));
        if (!status) {
          stopped->workload.init.reset();
          stopped->workload.exit_status = "not cleaned up: " + status.error().what;
          change(*stopped, WorkloadState::exited, status.error().what);
          return done(refuse(status.error().what, 1));
        }
        Workload last = stopped->workload;
        last.init.reset();
        last.exit_status = "stopped";
        last.state = WorkloadState::exited;
        erase(name);
        listener_(last, fmt::format("workload {} was stopped", name));
        done(&last);
      });
}

void Workloads::clean_up(std::function<void(std::vector<std::string>)> done) {
  auto work = std::make_shared<std::vector<WorkloadSpec>>();
  for (const auto& [name, entry] : entries_) {
    bool over = entry->workload.state == WorkloadState::exited || entry->workload.state == WorkloadState::away;
    if (over && entry->workload.origin != WorkloadOrigin::described) work->push_back(entry->workload.spec);
  }
  workers_.run(
      [config = &config_, work] {
        std::vector<Status> results;
        for (const WorkloadSpec& spec : *work) results.push_back(remove_workload_resources(*config, spec, kKillBound));
        return results;
      },
      [this, work, done](std::vector<Status> results) {
        std::vector<std::string> notes;
        for (size_t i = 0; i < work->size(); ++i) {
          const std::string& name = (*work)[i].name;
          const Workload* present = find(name);
          if (present == nullptr) continue;
          if (!results[i]) {
            notes.push_back(results[i].error().what);
          } else if (present->state == WorkloadState::exited || present->state == WorkloadState::away) {
            erase(name);
            notes.push_back(fmt::format("workload {} forgotten, its resources removed", name));
          }
        }
        done(std::move(notes));
      });
}

// ---- migrations ------------------------------------------------------------------------------------------------------

Answer<void> Workloads::begin_move(const std::string& name, const MigrationId& id) {
  Entry* present = entry(name);
  if (present == nullptr) return refuse(fmt::format("no workload named {} is known here; see mose workloads", name), 2);
  Workload& workload = present->workload;
  if (workload.state != WorkloadState::running || !workload.init) {
    return refuse(fmt::format("workload {} is {}, not running; only a running one can be moved", name, to_string(workload.state)));
  }
  workload.migration = id.hex();
  change(*present, WorkloadState::moving, fmt::format("workload {} is moving", name));
  return {};
}

Status Workloads::stay(const std::string& name) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::moving) {
    return fail(fmt::format("workload {} is not moving", name));
  }
  Workload& workload = present->workload;
  workload.migration.clear();
  if (workload.init && workload.init->alive()) {
    change(*present, WorkloadState::running, fmt::format("workload {} stays here", name));
    return {};
  }
  unwatch(*present);
  workload.init.reset();
  workload.exit_status = "ended during a migration";
  change(*present, WorkloadState::exited, fmt::format("workload {} ended during a migration", name));
  return {};
}

Status Workloads::leave(const std::string& name, const std::string& node) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::moving) {
    return fail(fmt::format("workload {} is not moving", name));
  }
  unwatch(*present);
  Workload& workload = present->workload;
  if (workload.init) (void)workload.init->reap(Nanoseconds(0));
  workload.init.reset();
  workload.migration.clear();
  workload.node = node;
  change(*present, WorkloadState::away, fmt::format("workload {} is on node {} now", name, node));
  return {};
}

Answer<void> Workloads::begin_arrival(const WorkloadSpec& spec, const MigrationId& id) {
  if (auto status = validate(spec); !status) return refuse(status.error().what);
  if (auto ok = free_name(spec.name); !ok) return ok;
  if (Entry* present = entry(spec.name)) unwatch(*present);
  auto arriving = std::make_unique<Entry>();
  WorkloadPaths paths = workload_paths(config_, spec.name);
  Workload& workload = arriving->workload;
  workload.spec = spec;
  workload.origin = WorkloadOrigin::moved;
  workload.cgroup = paths.cgroup;
  workload.host_device = handover::host_device_name(spec.name);
  workload.log = paths.log_dir + "/stdout.log";
  workload.migration = id.hex();
  Entry& kept = *arriving;
  entries_[spec.name] = std::move(arriving);
  change(kept, WorkloadState::arriving, fmt::format("workload {} is arriving", spec.name));
  return {};
}

Status Workloads::arrived(const std::string& name, ProcessHandle init) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::arriving) {
    return fail(fmt::format("workload {} is not arriving", name));
  }
  present->workload.init = std::make_shared<const ProcessHandle>(std::move(init));
  present->workload.migration.clear();
  change(*present, WorkloadState::running, fmt::format("workload {} runs here", name));
  watch(*present);
  return {};
}

void Workloads::forget_arrival(const std::string& name) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::arriving) return;
  Workload last = present->workload;
  erase(name);
  listener_(last, fmt::format("workload {} did not arrive", name));
}

}  // namespace mose::agent
