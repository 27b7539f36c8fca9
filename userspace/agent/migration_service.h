// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/memory_wait.h"
#include "agent/recovery_choice.h"
#include "agent/refusal.h"
#include "agent/refusal_log.h"
#include "base/result.h"
#include "model/migration.h"

// The seam between the agent's core (control server, workloads, command line) and the migrations. Everything is called
// in the loop thread and returns at once; callbacks run in the loop thread, never before the call that took them has
// returned.
namespace mose::agent {

struct Core;

struct MigrationProgress {
  MigrationId id;
  std::string workload, source, destination;  // destination: node name
  Role role = Role::source;                   // of this node
  std::string phase;                          // plan::to_string of the phase
  unsigned round = 0;
  uint64_t bytes_done = 0, bytes_total = 0;  // total 0: unknown
  bool before_commit = true;
  int64_t elapsed_ms = 0;
  std::string note;  // a sentence that the operator should hear; empty: none
  std::optional<MemoryWait> memory;  // of a workload that runs here before its memory is complete
};

struct MigrationEnd {
  MigrationId id;
  std::string workload;
  Role role = Role::source;
  Outcome outcome = Outcome::failed;
  std::string reason;       // empty when complete
  std::string report_json;  // the run object of the report
};

// What is measured of a migration while it is under way. Absent: not known yet, or the other end's to know.
struct MigrationFigures {
  MigrationProgress progress;
  bool undecided = false;  // it waits for `mose recover`
  std::optional<uint64_t> bytes_processed;  // sent, or received
  std::optional<uint64_t> bytes_remaining;  // source: to be sent before the workload stops; destination: after it
  std::optional<double> dirty_bytes_per_s, link_bytes_per_s;
  std::optional<uint64_t> pages_missing, faults;  // destination, of the final map
  std::optional<double> fault_waiting_s;          // destination: the oldest fault without an answer; 0: there is none
};

// What `mose recover` shows before it does it, and does.
struct RecoverySide {
  std::string node;
  Role role = Role::source;
  std::string record;            // the last one of its journal; empty: none that can be read
  int64_t recorded_unix_ms = 0;  // 0: not known
  std::string state;             // a sentence
};
struct Recovery {
  MigrationId id;
  std::string workload;
  std::vector<RecoverySide> sides;  // this node's first
  RecoveryChoice choice;
  bool done = false;  // or only shown
};
// What an operator has agreed to.
struct RecoveryShown {
  std::string action;
  bool certain = true;
  std::string warning;
  bool operator==(const RecoveryShown&) const = default;
};
struct RecoveryRequest {
  MigrationId id;
  RecoveryWish wish = RecoveryWish::none;
  bool act = false;      // else it is only shown
  std::optional<RecoveryShown> expected;  // anything else is refused; nothing: whatever it is
};

class MigrationTally;

// Of all of them, and of the door for other nodes.
struct ServiceFigures {
  std::vector<MigrationFigures> migrations;
  const MigrationTally* ended = nullptr;  // valid as long as the service
  RefusalCounts refused{};
  bool listening = false;                     // other nodes can connect
  std::string journal_problem, criu_problem;  // empty: read; ready
  std::string certificate_problem;            // PeerAccess::check_files(); empty: usable
};

class MigrationService {
 public:
  virtual ~MigrationService() = default;

  // Begins a migration of a workload that runs here. Refuses at once what can be known at once (unknown workload or
  // node, already moving); preflight runs afterwards, its refusal is a MigrationEnd with Outcome::refused.
  virtual Answer<MigrationId> start(const std::string& workload, const std::string& node,
                                    const MigrationOptions& options) = 0;
  // Asks for an abort; its effect comes as a MigrationEnd. Refused after the commit point or for an unknown id.
  virtual Answer<void> cancel(const MigrationId& id) = 0;
  // What both nodes have of a migration, and what is done about it; does it where the request says so. The peer is asked in a
  // worker, for a bounded time.
  virtual void recover(const RecoveryRequest& request, std::function<void(Answer<Recovery>)> done) = 0;
  // Everything that would refuse a move of `workload` to `node`, each a sentence; touches nothing. Empty: nothing.
  virtual void preflight(const std::string& workload, const std::string& node,
                         std::function<void(Answer<std::vector<std::string>>)> done) = 0;

  // Calls `next` when nothing of a departure of `workload` is left here: at once, or when its packets are no longer
  // redirected and its network is gone. Before that nothing of its name may be started here.
  virtual void after_departure(const std::string& workload, std::function<void()> next) = 0;

  // Calls `next` when CRIU has been tried out on this host, with whatever result: at once, but for the first seconds of an agent.
  virtual void when_criu_is_tried(std::function<void()> next) = 0;

  // The workload has ended here, by itself or stopped, and its processes are dead; `how`: a sentence. A migration that still
  // brings its memory has nothing more to bring.
  virtual void workload_ended(const std::string& workload, const std::string& how) = 0;

  // Migrations under way or undecided on this node, both roles.
  [[nodiscard]] virtual std::vector<MigrationProgress> list() const = 0;
  // For `metrics`: what list() says and what is measured.
  [[nodiscard]] virtual ServiceFigures figures() const = 0;
  // JSON of one migration, under way or finished (from the history); refused with exit code 2 when unknown.
  [[nodiscard]] virtual Answer<std::string> show(const MigrationId& id) const = 0;

  // The core subscribes once, before any other call. `on_progress` at each change of phase or round and at most ten
  // times a second otherwise; `on_end` once per migration.
  struct Listener {
    std::function<void(const MigrationProgress&)> on_progress;
    std::function<void(const MigrationEnd&)> on_end;
  };
  virtual void subscribe(Listener listener) = 0;

  // Called once when workloads have been re-adopted: reads the journals and goes on or back.
  virtual void recover_all() = 0;
  // The agent is about to end. A migration before its commit point is aborted, a later one stays in its journal; `done`
  // when nothing of this service runs any more (the core waits a bounded time).
  virtual void shut_down(std::function<void()> done) = 0;
};

// Made by mosed after the core is complete. Fails when other nodes could not connect to node.listen.
[[nodiscard]] Result<std::unique_ptr<MigrationService>> make_migration_service(Core& core);

}  // namespace mose::agent
