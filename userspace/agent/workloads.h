// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/config.h"
#include "agent/event_loop.h"
#include "agent/left_network.h"
#include "agent/refusal.h"
#include "agent/worker.h"
#include "agent/workload_start.h"
#include "kernel/process.h"
#include "model/migration.h"
#include "model/workload.h"

// The workloads of this node: which there are, where their processes and devices are, and what may be done with them.
//
// Life of one: run() starting -> running -> stop() stopping -> forgotten; or running -> exited (its init has ended by
// itself; stop() or a new run() forgets it). A migration takes it from running to moving and back, or on to away; at
// the destination arriving -> running, or forgotten again. Described ones (workloads.d) are waiting until their process
// is found. Everything but starting is kept in state_dir/workloads/NAME.json, so that a restarted agent finds it all
// again: a workload never depends on the agent's life.
namespace mose::agent {

enum class WorkloadState : uint8_t { starting, running, moving, arriving, stopping, exited, away, waiting };
[[nodiscard]] const char* to_string(WorkloadState state);

enum class WorkloadOrigin : uint8_t { run, described, moved };
[[nodiscard]] const char* to_string(WorkloadOrigin origin);

struct Workload {
  WorkloadSpec spec;
  WorkloadState state = WorkloadState::starting;
  WorkloadOrigin origin = WorkloadOrigin::run;
  std::shared_ptr<const ProcessHandle> init;  // running, moving, stopping: pid 1 of its namespace; else null
  std::string cgroup;                         // absolute path
  std::string host_device;                    // host end of its eth0
  std::string log;                            // its standard output on this node; empty: none of ours
  std::string migration;                      // moving, arriving: id
  std::string node;                           // away: where it went
  std::string exit_status;                    // exited
  int64_t since_unix_ms = 0;                  // of the state
};

// Where things of a workload lie on this node. The same rule everywhere: run, arrival and clean-up agree by it.
struct WorkloadPaths {
  std::string cgroup;       // <node.cgroup>/NAME
  std::string state_dir;    // <state_dir>/workloads/NAME
  std::string log_dir;      // <state_dir>/workloads/NAME/log, bound at kWorkloadLogTarget
  std::string runtime_dir;  // <runtime_dir>/workloads/NAME: for what a migration keeps of it, e.g. namespace pins
};
[[nodiscard]] WorkloadPaths workload_paths(const Config& config, const std::string& name);
inline constexpr const char* kWorkloadLogTarget = "/var/log/mose-workload";
inline constexpr const char* kWorkloadInit = "/usr/libexec/mose/mose-init";

// Kills what is left of the tree and removes network, cgroup and pins of a workload; idempotent, blocking: for a job.
// The log stays. `bound` for processes to go.
[[nodiscard]] Status remove_workload_resources(const Config& config, const WorkloadSpec& spec, Nanoseconds bound,
                                               LeftNetwork network = LeftNetwork::ends);

class Workloads {
 public:
  using Listener = std::function<void(const Workload&, const std::string& sentence)>;

  // The objects are borrowed and outlive this. `listener` hears of every change of state.
  Workloads(const Config& config, EventLoop& loop, WorkerPool& workers, Listener listener);
  ~Workloads();

  // Once at start: reads the registry, re-adopts what still runs (pid and start time), then the descriptions.
  // Unreadable entries are reported in problems() and left alone.
  [[nodiscard]] Status load();
  [[nodiscard]] std::vector<const Workload*> list() const;
  [[nodiscard]] const Workload* find(const std::string& name) const;  // valid until the next change
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

  // Blocking parts run in a worker; `done` in the loop. A refusal has touched nothing, a failure has undone all.
  using Done = std::function<void(Answer<const Workload*>)>;
  void run(const WorkloadSpec& spec, StartOptions options, Done done);
  // The Workload in `done` is a last look. One that is away is refused: it runs elsewhere.
  void stop(const std::string& name, Nanoseconds grace, Done done);
  // Forgets workloads that have exited or are away, with their resources; a line for each thing done.
  void clean_up(std::function<void(std::vector<std::string>)> done);
  // Nothing of these names begins here until the next call: what is nobody's is being removed. It has one caller at a time.
  void hold_names(std::vector<std::string> names) { held_names_ = std::move(names); }

  // How its process 1 has ended, if it has: "exit status 3", "signal 9", or "unknown" of one that is no child of this agent.
  [[nodiscard]] std::optional<std::string> ended(const std::string& name);

  // For migrations, in the loop thread. Each change is durable before it returns. One whose record cannot be written is refused
  // where it begins something; what has happened has happened: it is an error, and written again until it is there.
  [[nodiscard]] Answer<void> begin_move(const std::string& name, const MigrationId& id);      // running -> moving
  [[nodiscard]] Status stay(const std::string& name);                                         // moving -> running
  [[nodiscard]] Status leave(const std::string& name, const std::string& node);               // moving -> away
  [[nodiscard]] Answer<void> begin_arrival(const WorkloadSpec& spec, const MigrationId& id);  // -> arriving
  [[nodiscard]] Status arrived(const std::string& name, ProcessHandle init);                  // arriving -> running
  void forget_arrival(const std::string& name);                                               // arriving -> gone
  // Whether what is known of it is on the disk, which is tried once more where it is not. Before a journal goes that says the same.
  [[nodiscard]] Status saved(const std::string& name);

 private:
  struct Entry;
  [[nodiscard]] Status save(Entry& entry);
  // Whether it could be written or not.
  Status change(Entry& entry, WorkloadState state, const std::string& sentence);
  // Only if it can be.
  [[nodiscard]] Status begin_change(Entry& entry, WorkloadState state, const std::string& sentence);
  void watch(Entry& entry);
  void unwatch(Entry& entry);
  std::string end_of(Entry& entry);
  void init_ended(const std::string& name);
  void load_one(const std::string& path);
  void load_descriptions();
  // Looks for the process of a described workload that is waiting; true: it runs.
  bool find_described(Entry& entry);
  Entry* entry(const std::string& name);
  void erase(const std::string& name);
  [[nodiscard]] Answer<void> free_name(const std::string& name);
  // None of its addresses is used by another workload that is here, or on its way.
  [[nodiscard]] Answer<void> free_addresses(const WorkloadSpec& spec) const;

  const Config& config_;
  EventLoop& loop_;
  WorkerPool& workers_;
  Listener listener_;
  std::map<std::string, std::unique_ptr<Entry>> entries_;
  std::vector<std::string> problems_, held_names_;
  EventLoop::TimerId look_timer_ = 0;
};

}  // namespace mose::agent
