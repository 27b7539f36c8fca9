// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/migration.h"
#include "plan/protocol.h"
#include "plan/rounds.h"

// The source's half of a migration as a pure function: no I/O, no clock, no thread. The agent, the simulation of both
// ends and --dry-run run the same code.
//
// Life: preflight -> preparing -> precopy (with standby after its first round) -> arming -> quiescing -> freezing -> dumping -> restoring -> committing -> committed ->
// serving -> finishing -> done; from any phase before the commit record: aborting -> done. After the commit record only
// forward, but for two cases: a destination that answers COMMIT with ABORTED, and has never said that it runs, has lost the tree with its
// machine before it could, and the commit is taken back; and an operator who knows that it will never run the workload decides in its place
// (DestinationGone). At most one action of a kind is under way at a time; every action ends in one ActionDone event.
//
// What the executor promises:
// * resume_source ends make_standby, arm_dump, quiesce, dump and finish_dump that are under way (they answer with an error) and none of them
//   acts after it. It is never emitted while `freeze` is under way, nor before a record that has ended has made sure of it where there may be a
//   commit; beside the record of an abort that overrules none it is.
// * A ConnectionLost concerns the connection of the last `connect` that worked, and comes after its ActionDone.
// * An action that needs the peer (send, precopy_round, make_standby, final_scan) ends when the connection is lost.
// * Only the newest journal of a workload is recovered, and preflight refuses while that one is not `finished`.
namespace mose::plan {

enum class SourcePhase : uint8_t {
  preflight,   // nothing is touched yet
  preparing,   // the destination builds namespaces, pager, fence
  precopy,     // rounds while the workload runs
  standby,     // dumped once and resumed; the destination builds a stopped tree from that, which the switchover only refreshes
  arming,      // the dump process has been asked and waits in its pre-dump hook; new connections are held
  quiescing,   // what began to connect before is let in, the workload runs
  freezing,    // ingress held, cgroup being frozen
  dumping,     // metadata dump and final scan, side by side
  restoring,   // images and page map are out: waiting for READY
  committing,  // the commit record is being made durable
  committed,   // COMMIT is out: waiting for COMMITTED
  serving,     // the destination runs: pages are served until COMPLETE
  finishing,   // COMPLETE written down, source tree killed, RELEASED sent
  aborting,    // verdict recorded, source resumed
  done,
};
[[nodiscard]] const char* to_string(SourcePhase phase);

enum class SourceActionKind : uint8_t {
  preflight,       // local checks; refuses before anything is touched
  record,          // `record` durable in the journal
  connect,         // control connection and HELLO; also used again after a loss
  send,            // `message`
  precopy_round,   // round number `round` from 1; answers with RoundStats. What slows the workload down stays until the next
                   // round, quiesce or resume_source
  make_standby,    // a dump as the final one, after which the workload runs again; then until the destination's standby stands. An
                   // error means that the workload could not be resumed: that there is no standby is none
  arm_dump,        // new connections held; CRIU asked to dump, waiting in pre-dump; nothing is stopped yet
  quiesce,         // full speed again, then listen queues run dry, within a bound of some milliseconds; fails when connections
                   // stay that nobody accepts
  freeze,          // ingress to hold, then the cgroup frozen and seen frozen
  dump,            // until post-dump: egress shut, cgroup frozen again, images in hand
  final_scan,      // the final dirty set; page map sent, remaining pages follow in the background
  finish_dump,     // CRIU let go: swrk has exited, the tree is stopped and frozen
  resume_source,   // idempotent undo of everything above: full speed, dump ended, repair off, egress open, SIGCONT, thaw,
                   // deliver held, pass
  redirect,        // held packets drain to the peer in order, then redirect
  kill_source,     // tree killed in repair mode, namespaces and address removed here
  wait_retry,      // a pause before something is tried again; `round` counts the failed attempts so far, for the back-off
  close,           // report finished, resources of this migration released here
};
[[nodiscard]] const char* to_string(SourceActionKind kind);

struct SourceAction {
  SourceActionKind kind;
  Message message{};    // send
  Record record{};      // record
  unsigned round = 0;   // precopy_round, wait_retry
  unsigned throttle_percent = 0;  // precopy_round: the workload is slowed down by so much from its beginning on
  bool closing = false;           // precopy_round: the final scan is prepared in it, and the freeze follows soon
  std::string reason;   // send abort, resume_source: why
  bool operator==(const SourceAction&) const = default;
};

struct RoundStats {
  uint64_t pages_present = 0;
  uint64_t pages_sent = 0;
  uint64_t bytes_sent = 0;
  Nanoseconds duration{0};
  uint64_t link_bps = 0;           // what the link has carried; 0: not known yet
  std::optional<Outlook> outlook;  // nothing before the second round
  bool unprepared = false;         // the final scan waits for a round that prepares it
  double write_fault_seconds = 0;  // what a write to a protected page takes more than another; 0: not known
  uint64_t pages_next_protected = 0;  // that the final scan has to read, written or not, unless another round protects them
};

// What the final scan has found.
struct FinalStats {
  uint64_t pages_left = 0;  // that the destination does not have
};

// An action has ended. `error` empty: it worked.
struct SourceActionDone {
  SourceActionKind kind;
  std::string error;
  RoundStats stats;  // precopy_round
  FinalStats final;  // final_scan
};
// So many of the final scan's pages are not at the destination yet. Told at least once when they are no more than
// pages_left_max() of the state.
struct PagesLeft {
  uint64_t pages = 0;
};
struct MessageReceived {
  Message message;
  std::string reason;  // refused, failed; complete: why it is lost, empty where it is not
};
struct ConnectionLost {
  std::string reason;  // a sentence, as the operator shall read it
};
struct CancelRequested {};
// After the commit: the operator says that the destination will never run the workload any more, and what becomes of the stopped
// tree. Nothing else than that word can decide it; where it is wrong, two run. Ignored unless may_decide().
enum class GoneChoice : uint8_t {
  resume,  // the commit is overruled by a durable `aborted`, and the workload runs here again
  end,     // a durable `lost`, then the tree is killed
};
struct DestinationGone {
  GoneChoice choice;
  // It is there, and will answer the same for ever: that it has nothing of this migration, or has thrown away what had run there.
  bool knows_nothing = false;
};
struct Tick {};  // the time of `deadline` has come
using SourceEvent = std::variant<SourceActionDone, MessageReceived, ConnectionLost, CancelRequested, PagesLeft, DestinationGone, Tick>;

// The whole state; a plain value that the simulation copies.
struct SourceState {
  SourcePhase phase = SourcePhase::preflight;
  MigrationOptions options;
  Strategy strategy = Strategy::hybrid;  // chosen from options
  std::string strategy_reason;           // a sentence; says more once the rounds have ended
  RoundVerdict rounds_ended = RoundVerdict::another;  // how; `another`: not yet, or there were none
  uint64_t link_bps = 0;                              // of the last round that knew it
  std::optional<Outlook> outlook;                     // of the last round
  uint64_t pages_left = 0;                            // that the destination does not have, after the final scan
  unsigned round = 0;
  unsigned throttle_percent = 0;          // by which the workload is slowed down, or was at the most
  bool closing = false;                   // a closing round has prepared the final scan, or the one under way does
  bool unprepared = false;                // the final scan still waits for such a round
  bool slowed_now = false;                // in the round under way by more than in the one before
  std::vector<SourceActionKind> running;  // actions under way
  bool cancel_wanted = false;
  bool touched = false;        // the destination has been reached: the end is `failed`, no longer `refused`
  bool stopped = false;        // the freeze (also of a standby's dump) has begun: resume_source must run on abort
  bool standby_tried = false;
  bool images_sent = false, map_sent = false, dump_finished = false, ready_seen = false;
  bool connected = false;
  uint64_t last_pages_sent = 0;
  Outcome outcome = Outcome::failed;
  std::string reason;
  std::optional<Timestamp> deadline;  // when to call step with Tick

  // The planner's own.
  std::vector<SourceAction> waiting;   // records and sends that wait for the end of the one under way
  Record recording = Record::begun;    // of the record under way
  Message sending = Message::prepare;  // of the send under way
  Verdict verdict = Verdict::undecided;
  bool begun = false;            // record(begun) was asked for
  bool armed = false;            // arm_dump was asked for
  bool prepare_out = false;      // the destination may know of this migration
  bool commit_doubtful = false;  // record(commit) failed: it may be durable all the same
  bool abort_recorded = false;   // record(aborted) has ended
  bool resume_wanted = false, resumed = false;
  bool verdict_out = false;      // COMMIT or ABORT was sent on the present connection
  bool peer_settled = false;     // the destination has nothing of this migration, or is no longer asked
  bool has_run_there = false;    // the destination has said so, to this agent or to one before it: the state here is of the past
  bool committed_seen = false, redirect_settled = false, complete_seen = false, complete_recorded = false;
  bool killed = false, finish_recorded = false;
  bool given_up = false;         // the operator has decided in the destination's place
  bool overruled = false;        // a commit that the destination may have heard is taken back, by its word or by the operator's
  bool pause_wanted = false;     // the next attempt at something waits for wait_retry
  unsigned connect_failures = 0, record_failures = 0, resume_failures = 0, redirect_failures = 0, kill_failures = 0;
};

struct SourceStep {
  SourceState state;
  std::vector<SourceAction> actions;
};

// The first step of a new migration.
[[nodiscard]] SourceStep start_source(const MigrationOptions& options, Timestamp now);
// After a restart of the agent, from the records of its journal in order (at least `begun`): an undecided migration is
// aborted and the source resumed, a committed one goes on. `has_run_there`: the journal notes that the destination has said so.
[[nodiscard]] SourceStep recover_source(const std::vector<Record>& records, bool has_run_there, Timestamp now);
// An event that is impossible in the state (a late answer, a repeated message) changes nothing.
[[nodiscard]] SourceStep step(const SourceState& state, const SourceEvent& event, Timestamp now);

// How many pages may be at the source at the commit; nothing: any number.
[[nodiscard]] std::optional<uint64_t> pages_left_max(const SourceState& state);
// Whether such a decision is taken: the commit stands, and the destination has neither ever said that it runs (resume), nor that it has
// everything (end). One that is connected is not gone.
[[nodiscard]] bool may_decide(const SourceState& state, const DestinationGone& gone);
// True as long as a cancel request still leads to a running source.
[[nodiscard]] bool before_commit(const SourceState& state);
// True once `outcome` is final for the operator. After an abort that is when the source runs again: telling
// the destination may go on in the background until `done`.
[[nodiscard]] bool settled(const SourceState& state);
// What a destination that asks may be told. Never read the journal for it: a commit record that is still being written,
// or whose write has failed, is no verdict.
[[nodiscard]] Verdict verdict(const SourceState& state);
// True when the migration has ended and nothing of it is left to do here: its journal may be removed. At `done` without
// it (the source could not be resumed or removed, or the commit is in doubt) the journal stays, and `mose recover` as
// well as the next start of the agent go on from it with recover_source.
[[nodiscard]] bool nothing_left(const SourceState& state);

// In the reason of an abort whose destination says that it runs all the same; also when that comes after the end of it.
inline constexpr const char* kMayRunTwice = "THE WORKLOAD MAY RUN TWICE, stop one of them";
// The beginning of the reason where that is so; nothing but the operator's word ends it (DestinationGone).
inline constexpr const char* kThrownAway = "the destination has thrown the workload away, which had run there";

// Limits. Waits are counted from the last step that led there.
// Connect, and PREPARE to PREPARED. The workload runs meanwhile; the destination's kernel takes seconds of a busy machine to
// verify programs.
inline constexpr Nanoseconds kPrepareDeadline = std::chrono::seconds(30);
inline constexpr Nanoseconds kDumpDeadline = std::chrono::seconds(20);     // arm_dump to images and page map out
inline constexpr Nanoseconds kReadyDeadline = std::chrono::seconds(20);    // images and page map out to READY
inline constexpr int kSlowerThanSeen = 4;  // of the time that pages which come before READY or commit add to it
inline constexpr Nanoseconds kAbortedDeadline = std::chrono::seconds(5);   // ABORT to ABORTED, per attempt
inline constexpr unsigned kAbortAttempts = 10;       // connections on which ABORT is tried; then the destination asks us
inline constexpr unsigned kResumeAttempts = 10;      // then the workload stays stopped and `mose recover` is named
inline constexpr unsigned kAbortRecordAttempts = 3;  // after a doubtful commit record
inline constexpr unsigned kRedirectAttempts = 5;     // then packets for the old place are lost, pages are still served
inline constexpr unsigned kKillAttempts = 5;         // then the stopped source tree stays until `mose recover`

}  // namespace mose::plan
