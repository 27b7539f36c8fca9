// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/migration.h"
#include "plan/protocol.h"

// The source's half of a migration as a pure function: no I/O, no clock, no thread. The agent, the simulation of both
// ends and --dry-run run the same code.
//
// Life: preflight -> preparing -> precopy -> arming -> freezing -> dumping -> restoring -> committing -> committed ->
// serving -> finishing -> done; from any phase before the commit record: aborting -> done. After the commit record only
// forward. Exactly one action of a kind is under way at a time; every action ends in one ActionDone event.
namespace mose::plan {

enum class SourcePhase : uint8_t {
  preflight,   // nothing is touched yet
  preparing,   // the destination builds namespaces, pager, fence
  precopy,     // rounds while the workload runs
  arming,      // the dump process has been asked and waits in its pre-dump hook
  freezing,    // ingress held, cgroup being frozen
  dumping,     // metadata dump and final scan, side by side
  restoring,   // images and page map are out: waiting for READY
  committing,  // the commit record is being made durable
  committed,   // COMMIT is out: waiting for COMMITTED
  serving,     // the destination runs: pages are served until COMPLETE
  finishing,   // source tree killed, RELEASED sent
  aborting,    // verdict recorded, source resumed
  done,
};
[[nodiscard]] const char* to_string(SourcePhase phase);

enum class SourceActionKind : uint8_t {
  preflight,       // local checks; refuses before anything is touched
  record,          // `record` durable in the journal
  connect,         // control connection and HELLO; also used again after a loss
  send,            // `message`
  precopy_round,   // round number `round` from 1; answers with RoundStats
  arm_dump,        // CRIU asked to dump, waiting in pre-dump; nothing is stopped yet
  freeze,          // ingress to hold, then the cgroup frozen and seen frozen
  dump,            // until post-dump: egress shut, cgroup frozen again, images in hand
  final_scan,      // the final dirty set; page map sent, remaining pages follow in the background
  finish_dump,     // CRIU let go: swrk has exited, the tree is stopped and frozen
  resume_source,   // idempotent undo of everything above: dump ended, repair off, egress open, SIGCONT, thaw, deliver held, pass
  redirect,        // held packets drain to the peer in order, then redirect
  kill_source,     // tree killed in repair mode, namespaces and address removed here
  wait_retry,      // a pause before the next connect
  close,           // report finished, resources of this migration released here
};
[[nodiscard]] const char* to_string(SourceActionKind kind);

struct SourceAction {
  SourceActionKind kind;
  Message message{};    // send
  Record record{};      // record
  unsigned round = 0;   // precopy_round
  std::string reason;   // send abort, resume_source: why
  bool operator==(const SourceAction&) const = default;
};

struct RoundStats {
  uint64_t pages_present = 0;
  uint64_t pages_sent = 0;
  uint64_t bytes_sent = 0;
  Nanoseconds duration{0};
};

// An action has ended. `error` empty: it worked.
struct SourceActionDone {
  SourceActionKind kind;
  std::string error;
  RoundStats stats;  // precopy_round
};
struct MessageReceived {
  Message message;
  std::string reason;  // refused, failed
};
struct ConnectionLost {
  std::string reason;
};
struct CancelRequested {};
struct Tick {};  // the time of `deadline` has come
using SourceEvent = std::variant<SourceActionDone, MessageReceived, ConnectionLost, CancelRequested, Tick>;

// The whole state; a plain value that the simulation copies.
struct SourceState {
  SourcePhase phase = SourcePhase::preflight;
  MigrationOptions options;
  Strategy strategy = Strategy::hybrid;  // chosen from options
  unsigned round = 0;
  std::vector<SourceActionKind> running;  // actions under way
  bool cancel_wanted = false;
  bool touched = false;        // preflight passed: the end is `failed`, no longer `refused`
  bool stopped = false;        // the freeze has begun: resume_source must run on abort
  bool images_sent = false, map_sent = false, dump_finished = false, ready_seen = false;
  bool connected = false;
  uint64_t last_pages_sent = 0;
  Outcome outcome = Outcome::failed;
  std::string reason;
  std::optional<Timestamp> deadline;  // when to call step with Tick
  // Further fields are the planner's own.
};

struct SourceStep {
  SourceState state;
  std::vector<SourceAction> actions;
};

// The first step of a new migration.
[[nodiscard]] SourceStep start_source(const MigrationOptions& options, Timestamp now);
// After a restart of the agent, from the records of its journal in order (at least `begun`): an undecided migration is
// aborted and the source resumed, a committed one goes on.
[[nodiscard]] SourceStep recover_source(const std::vector<Record>& records, Timestamp now);
// An event that is impossible in the state (a late answer, a repeated message) changes nothing.
[[nodiscard]] SourceStep step(const SourceState& state, const SourceEvent& event, Timestamp now);

// True as long as a cancel request still leads to a running source.
[[nodiscard]] bool before_commit(const SourceState& state);

}  // namespace mose::plan
