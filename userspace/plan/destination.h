// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/migration.h"
#include "plan/protocol.h"
#include "plan/source.h"

// The destination's half of a migration as a pure function.
//
// Life: preparing -> prepared -> restoring -> fenced (READY; only a verdict decides) -> activating -> running (pages
// still come) -> finishing -> done; before READY a failure, an ABORT or a lost connection leads to discarding -> done.
// A tree that ends while pages are missing takes the migration to finishing as well, with the outcome `lost`: the pager is
// ended once the tree is dead, and the source hears COMPLETE.
// A tree that is not whole any more before it was thawed (its machine has gone down, somebody or the kernel has killed it, or a
// process of it) never runs: it is discarded, and who sends COMMIT hears ABORTED; also where that had been recorded here.
// In `fenced` a lost connection changes nothing: the tree stays stopped until COMMIT or ABORT arrives on a new connection,
// or is the answer to query_verdict. At most one action of a kind is under way at a time; each ends in one ActionDone.
//
// What the executor promises:
// * discard ends a restore that is under way (it answers with an error), and that restore does nothing after it. discard
//   is never emitted while `prepare` or `activate` is under way.
// * Sends go to the newest connection of the migration; when a newer one has come, messages and the loss of an older
//   one are not reported.
// * From the end of restore until it is thawed the tree is watched, and looked at before every COMMIT is given to step() and
//   before activate thaws: what is missing is a TreeEnded, or the tree_gone of that activate. While activate is under way there is
//   no TreeEnded.
// * `done` still answers: a message for a migration that has ended, or is unknown (no records), is given to
//   step(recover_destination(records)), so that a source that has missed an answer gets it again.
namespace mose::plan {

enum class DestinationPhase : uint8_t {
  preparing, prepared, restoring, fenced, activating, running, finishing, discarding, done,
};
[[nodiscard]] const char* to_string(DestinationPhase phase);

enum class DestinationActionKind : uint8_t {
  record,     // `record` durable in the journal
  send,       // `message`; lost silently when there is no connection
  prepare,    // checks, namespaces, silent address, cgroup, steering shut, restore process, pager and guardian
  restore,    // images written, RESTORE until swrk has exited and the cgroup is seen frozen
  activate,   // thaw, held egress released, announce, pass; nothing of it where the tree is not whole
  discard,    // egress dropped, tree killed, pager ended, namespaces thrown away; idempotent. Also of a tree that is lost
  finish,     // pager closed after the last page, workload registered as running here
  query_verdict,  // asks the source on a QUERY connection; a verdict arrives as MessageReceived commit or abort before
                  // ActionDone; "undecided" or an unreachable source is an ActionDone alone
};
[[nodiscard]] const char* to_string(DestinationActionKind kind);

struct DestinationAction {
  DestinationActionKind kind;
  Message message{};
  Record record{};
  std::string reason;
  bool operator==(const DestinationAction&) const = default;
};

struct DestinationActionDone {
  DestinationActionKind kind;
  std::string error;
  bool tree_gone = false;   // activate: it was not there, or not all of it, and was not thawed
  bool not_thawed = false;  // activate that failed otherwise: before the thaw
};
struct PagesArriving {};  // since the last of these: pre-copy goes on
struct PagesComplete {};  // the pager has every page
// With pages still missing, or before it was thawed: the tree has ended, by itself or by its operator's hand. Of a frozen one a
// part is as good as all: the source still has it whole.
struct TreeEnded {
  std::string reason;
};
using DestinationEvent =
    std::variant<DestinationActionDone, MessageReceived, ConnectionLost, PagesArriving, PagesComplete, TreeEnded, Tick>;

struct DestinationState {
  DestinationPhase phase = DestinationPhase::preparing;
  std::vector<DestinationActionKind> running;
  bool connected = true;
  bool pages_complete = false;
  bool lost = false;  // the tree has ended before they were: what is missing is given up
  Outcome outcome = Outcome::failed;
  std::string reason;
  std::optional<Timestamp> deadline;

  // The planner's own.
  std::vector<DestinationAction> waiting;  // records and sends that wait for the end of the one under way
  Record recording = Record::begun;        // of the record under way
  Message sending = Message::prepared;     // of the send under way
  bool begun = false;
  bool committed = false;        // the verdict is commit (its record may still be under way)
  bool commit_recorded = false, complete_recorded = false, finish_recorded = false;
  bool commit_asked = false;     // record(commit) was asked for: it may be in the journal
  bool may_have_run = false;     // an activate has thawed it, or an agent before us had the verdict
  bool fence_kept = false;       // an abort of a fenced tree is recorded before the tree is discarded
  bool abort_recorded = false;   // record(aborted) has ended
  bool abort_missing = false;    // with an error, and a commit may stand before it
  bool discarded = false, finished_here = false, released_seen = false;
  bool answer_abort = false;     // ABORTED is owed once everything is discarded
  unsigned failures = 0;         // of the action that is being tried again
};

struct DestinationStep {
  DestinationState state;
  std::vector<DestinationAction> actions;
};

// PREPARE has arrived for a migration that is unknown here.
[[nodiscard]] DestinationStep start_destination(Timestamp now);
// After a restart: without `ready` everything is discarded; `ready` without a verdict stays fenced; a committed tree is
// activated (idempotent) and goes on.
[[nodiscard]] DestinationStep recover_destination(const std::vector<Record>& records, Timestamp now);
[[nodiscard]] DestinationStep step(const DestinationState& state, const DestinationEvent& event, Timestamp now);

// True when the migration has ended and nothing of it is left to do here: its journal may be removed. At `done` without
// it (something could not be discarded or registered) the journal stays, and `mose recover` as well as the next start
// of the agent go on from it with recover_destination.
[[nodiscard]] bool nothing_left(const DestinationState& state);

// Limits.
inline constexpr Nanoseconds kImagesDeadline = std::chrono::minutes(10);   // PREPARED, or the last page, to IMAGES
inline constexpr Nanoseconds kReleasedDeadline = std::chrono::seconds(5);  // everything done to RELEASED: it only closes
inline constexpr Nanoseconds kRetryPause = std::chrono::seconds(1);        // before an action is tried again
inline constexpr unsigned kDiscardAttempts = 10;  // then what is left stays, stopped, until `mose recover`
inline constexpr unsigned kFinishAttempts = 10;   // then the workload runs, unregistered, until `mose recover`

}  // namespace mose::plan
