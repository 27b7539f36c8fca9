// SPDX-License-Identifier: MIT
#include "agent/workloads.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "agent/bounds.h"
#include "agent/durable_file.h"
#include "agent/file_sync.h"
#include "agent/workload_start.h"
#include "agent/workloads_entry.h"
#include "base/check.h"
#include "base/log.h"
#include "handover/workload_network.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kLaunchBound = std::chrono::seconds(10);

// Another one of its name that arrives later must not take the files of the copied mounts for its own.
Status forget_copies(const Config& config, const std::string& name) {
  return forget_copied(workload_paths(config, name).state_dir);
}

}  // namespace

const char* to_string(WorkloadState state) {
  switch (state) {
    case WorkloadState::starting:
      return "starting";
    case WorkloadState::running:
      return "running";
    case WorkloadState::moving:
      return "moving";
    case WorkloadState::arriving:
      return "arriving";
    case WorkloadState::stopping:
      return "stopping";
    case WorkloadState::exited:
      return "exited";
    case WorkloadState::away:
      return "away";
    case WorkloadState::waiting:
      return "waiting";
  }
  return "?";
}

const char* to_string(WorkloadOrigin origin) {
  switch (origin) {
    case WorkloadOrigin::run:
      return "run";
    case WorkloadOrigin::described:
      return "described";
    case WorkloadOrigin::moved:
      return "moved";
  }
  return "?";
}

WorkloadPaths workload_paths(const Config& config, const std::string& name) {
  std::string state = config.node.state_dir + "/workloads/" + name;
  return {config.node.cgroup + "/" + name, state, state + "/log", config.node.runtime_dir + "/workloads/" + name};
}

Workloads::Workloads(const Config& config, EventLoop& loop, WorkerPool& workers, Listener listener)
    : config_(config), loop_(loop), workers_(workers), listener_(std::move(listener)) {}

Workloads::~Workloads() {
  loop_.cancel(look_timer_);
  for (auto& [name, entry] : entries_) unwatch(*entry);
}

std::vector<const Workload*> Workloads::list() const {
  std::vector<const Workload*> out;
  out.reserve(entries_.size());
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

// ---- the disk
// --------------------------------------------------------------------------------------------------------

Status Workloads::save(Entry& entry) {
  const Workload& workload = entry.workload;
  const std::string path = config_.node.state_dir + "/workloads/" + workload.spec.name + ".json";
  Status written;
  if (workload.origin == WorkloadOrigin::described && workload.state != WorkloadState::moving) {
    written = remove_tree(path);
  } else {
    WorkloadRecord record{workload, 0, 0, boot_id()};
    if (workload.init) {
      record.pid = workload.init->pid();
      record.start_time = workload.init->start_time();
    }
    written = replace_file(path, encode_record(record));
  }
  entry.unsaved = !written;
  if (written) return {};
  const int code = written.error().code;
  if (code == ENOSPC || code == EDQUOT || code == EFBIG) written.error().what += "; free space on the file system of " + config_.node.state_dir;
  return context("the record of workload " + workload.spec.name + " cannot be written", written.error());
}

Status Workloads::saved(const std::string& name) {
  Entry* present = entry(name);
  return present == nullptr || !present->unsaved ? Status{} : save(*present);
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

// ---- state
// -----------------------------------------------------------------------------------------------------------

Status Workloads::change(Entry& entry, WorkloadState state, const std::string& sentence) {
  entry.workload.state = state;
  entry.workload.since_unix_ms = unix_now_ms();
  Status written = save(entry);
  if (!written) {
    log::error("a workload's record cannot be written",
               {{"workload", entry.workload.spec.name}, {"reason", written.error().what}});
  }
  listener_(entry.workload, sentence);
  return written;
}

Status Workloads::begin_change(Entry& entry, WorkloadState state, const std::string& sentence) {
  const WorkloadState before = std::exchange(entry.workload.state, state);
  entry.workload.since_unix_ms = unix_now_ms();
  if (auto written = save(entry); !written) {
    entry.workload.state = before;  // the file may be either
    return written;
  }
  listener_(entry.workload, sentence);
  return {};
}

void Workloads::watch(Entry& entry) {
  MOSE_CHECK(entry.workload.init && !entry.watched, "watch a process once");
  entry.end.clear();
  std::string name = entry.workload.spec.name;
  const log::ForMigration of_none({});  // it outlives the one that has brought it here
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

std::string Workloads::end_of(Entry& entry) {
  if (!entry.end.empty() || !entry.workload.init) return entry.end;
  auto exit = entry.workload.init->reap(Nanoseconds(0));  // ours when this agent started it or is its reaper
  entry.end = exit ? describe(*exit) : "unknown";
  return entry.end;
}

std::optional<std::string> Workloads::ended(const std::string& name) {
  Entry* present = entry(name);
  if (present == nullptr || !present->workload.init || present->workload.init->alive()) return std::nullopt;
  return end_of(*present);
}

void Workloads::init_ended(const std::string& name) {
  Entry* ended = entry(name);
  if (ended == nullptr) return;
  unwatch(*ended);
  Workload& workload = ended->workload;
  const std::string end = end_of(*ended);
  // While it moves its end is the migration's business (it kills the source's tree itself), while it stops stop()'s.
  if (workload.state != WorkloadState::running) return;
  workload.exit_status = end;
  workload.init.reset();
  change(*ended, workload.origin == WorkloadOrigin::described ? WorkloadState::waiting : WorkloadState::exited,
         fmt::format("workload {} has ended: {}", name, workload.exit_status));
}

Answer<void> Workloads::free_name(const std::string& name) {
  if (std::ranges::find(held_names_, name) != held_names_.end()) {
    return refuse(fmt::format("what workload {} has left is just being removed; try again", name));
  }
  Entry* present = entry(name);
  if (present == nullptr) return {};
  const Workload& workload = present->workload;
  if (workload.state == WorkloadState::exited || workload.state == WorkloadState::away) {
    if (present->busy) return refuse(fmt::format("what workload {} has left is just being removed; try again", name));
    return {};
  }
  return refuse(fmt::format("a workload named {} is {} here already; choose another name or stop it first", name,
                            to_string(workload.state)));
}

Answer<void> Workloads::free_addresses(const WorkloadSpec& spec) const {
  for (const auto& [name, other] : entries_) {
    if (name == spec.name) continue;
    if (other->workload.state == WorkloadState::away || other->workload.state == WorkloadState::exited) continue;
    for (const ServiceAddress& address : spec.addresses) {
      bool same = std::ranges::any_of(other->workload.spec.addresses, [&](const ServiceAddress& a) {
        return a.family == address.family && a.bytes == address.bytes;
      });
      if (same) {
        return refuse(fmt::format("address {} is already used by workload {}; choose another", format_address(address), name));
      }
    }
  }
  return {};
}

// ---- run and stop
// ----------------------------------------------------------------------------------------------------

void Workloads::run(const WorkloadSpec& spec, StartOptions options, Done done) {
  auto refuse_later = [&](const Refusal& refusal) { loop_.post([done, refusal] { done(std::unexpected(refusal)); }); };
  // A record's name is a file's name: nothing is done with a name that is not one.
  if (auto status = validate(spec); !status) return refuse_later({2, status.error().what});
  if (auto ok = free_name(spec.name); !ok) return refuse_later(ok.error());
  if (auto ok = free_addresses(spec); !ok) return refuse_later(ok.error());
  const std::string name = spec.name;
  auto before = entries_.contains(name) ? std::make_shared<Workload>(entries_[name]->workload) : nullptr;
  auto created = std::make_unique<Entry>();
  created->busy = true;
  created->workload.spec = spec;
  created->workload.since_unix_ms = unix_now_ms();
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
  workers_.run([config = &config_, spec, options] { return check_start(*config, spec, options); },
               [this, name, options, done, forget, started, before](Answer<WorkloadSpec> checked) {
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
                 auto begun = begin_change(*entries_.at(name), WorkloadState::starting, fmt::format("workload {} is starting", name));
                 if (!begun) {
                   forget();
                   return done(refuse(begun.error().what));
                 }
                 // What an earlier one of this name left is removed first.
                 workers_.run(
                     [config = &config_, spec = *checked, options, leftovers = before != nullptr]() -> Result<ProcessHandle> {
                       if (leftovers) MOSE_TRY(remove_workload_resources(*config, spec, kExitBound));
                       MOSE_TRY(forget_copies(*config, spec.name));
                       return start_workload(*config, spec, options, kLaunchBound);
                     },
                     started);
               });
}

void Workloads::stop(const std::string& name, Nanoseconds grace, Done done) {
  auto refuse_later = [&](const std::string& reason, int code) {
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
    return refuse_later(fmt::format("workload {0} is {1} (migration {2}): `mose cancel {2}` before its commit; where it does not end "
                                    "by itself, `mose recover {2}` shows what can be done",
                                    name, to_string(workload.state), workload.migration),
                        3);
  }
  if (workload.state == WorkloadState::away) {
    return refuse_later(fmt::format("workload {} has moved to node {}: stop it there; `mose cleanup` here removes what "
                                    "it has left, once its clients know the new way",
                                    name, workload.node),
                        3);
  }
  if (present->busy) {
    return refuse_later(fmt::format("workload {} is {} already", name, to_string(workload.state)), 3);
  }
  unwatch(*present);
  present->busy = true;
  change(*present, WorkloadState::stopping, fmt::format("workload {} is stopping", name));
  workers_.run(
      [config = &config_, spec = workload.spec, init = workload.init, grace]() -> Status {
        static const ProcessHandle kNone;
        MOSE_TRY(stop_workload(*config, spec, init ? *init : kNone, grace));
        return forget_copies(*config, spec.name);
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
    if (!over || entry->busy || entry->workload.origin == WorkloadOrigin::described) continue;
    entry->busy = true;
    work->push_back(entry->workload.spec);
  }
  workers_.run(
      [config = &config_, work] {
        std::vector<Status> results;
        for (const WorkloadSpec& spec : *work) {
          Status removed = remove_workload_resources(*config, spec, kExitBound);
          results.push_back(removed ? forget_copies(*config, spec.name) : removed);
        }
        return results;
      },
      [this, work, done = std::move(done)](const std::vector<Status>& results) {
        std::vector<std::string> notes;
        for (size_t i = 0; i < work->size(); ++i) {
          const std::string& name = (*work)[i].name;
          Entry* present = entry(name);
          if (present == nullptr) continue;
          present->busy = false;
          if (!results[i]) {
            notes.push_back(results[i].error().what);
          } else {
            erase(name);
            notes.push_back(fmt::format("workload {} forgotten, its resources removed", name));
          }
        }
        done(std::move(notes));
      });
}

}  // namespace mose::agent
