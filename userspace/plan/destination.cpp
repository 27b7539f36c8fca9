// SPDX-License-Identifier: MIT
#include "plan/destination.h"

#include <algorithm>

#include "base/check.h"

namespace mose::plan {
namespace {

using Kind = DestinationActionKind;
using Phase = DestinationPhase;

// One step: events change facts in the state, then advance() emits what the facts allow and what is not under way yet.
class Machine {
 public:
  Machine(DestinationState state, Timestamp now) : s_(std::move(state)), now_(now) {}

  void begin() {
    s_.begun = true;
    record(Record::begun);
  }
  void recover(const std::vector<Record>& records);

  void on(const DestinationActionDone& done);
  void on(const MessageReceived& message);
  void on(const ConnectionLost&);
  void on(const PagesArriving&);
  void on(const PagesComplete&);
  void on(const TreeEnded& ended);
  void on(const Tick&);

  DestinationStep take() { return {std::move(s_), std::move(out_)}; }

 private:
  [[nodiscard]] bool running(Kind kind) const {
    return std::find(s_.running.begin(), s_.running.end(), kind) != s_.running.end();
  }
  [[nodiscard]] bool before_verdict() const { return s_.phase <= Phase::fenced; }

  // Emits the action, or keeps it until the one of its kind that is under way has ended.
  void start(DestinationAction action);
  void record(Record r) { start({.kind = Kind::record, .record = r}); }
  void send(Message m, std::string reason = {}) {
    start({.kind = Kind::send, .message = m, .reason = std::move(reason)});
  }
  void act(Kind kind) { start({.kind = kind, .reason = s_.reason}); }
  void wait_for(Nanoseconds time) { s_.deadline = now_ + time; }

  void commit_received();
  void abort_received(const std::string& why);
  void record_done(Record r, const std::string& error);
  void host_action_done(const DestinationActionDone& done);
  void activated(const DestinationActionDone& done);
  void finished_or_not(const std::string& error);
  void discard(std::string why);
  void give_back(const std::string& why);
  void lose(const std::string& why);
  void retry(const std::string& what, const std::string& error);

  void advance();
  void advance_fenced();
  void advance_activating();
  void advance_lost();
  void advance_finishing();
  void advance_discarding();
  void answer_abort();

  DestinationState s_;
  Timestamp now_;
  std::vector<DestinationAction> out_;
};

void Machine::start(DestinationAction action) {
  if (running(action.kind)) {
    MOSE_CHECK(action.kind == Kind::record || action.kind == Kind::send, "only records and sends wait for each other");
    s_.waiting.push_back(std::move(action));
    return;
  }
  if (action.kind == Kind::record) s_.recording = action.record;
  if (action.kind == Kind::send) s_.sending = action.message;
  s_.running.push_back(action.kind);
  out_.push_back(std::move(action));
}

void Machine::recover(const std::vector<Record>& records) {
  s_.connected = false;
  s_.begun = !records.empty();
  s_.committed = committed(records);
  s_.commit_recorded = s_.committed;
  s_.commit_asked = contains(records, Record::commit);
  s_.outcome = s_.committed ? Outcome::complete : Outcome::failed;
  s_.lost = contains(records, Record::lost);
  if (s_.lost) {
    s_.outcome = Outcome::lost;
    s_.reason = "the workload ended before its memory was complete";
  }
  if (records.empty()) {
    s_.phase = Phase::done;
    s_.discarded = s_.finish_recorded = true;
    s_.reason = "this migration is unknown here";
    return;
  }
  switch (records.back()) {
    case Record::begun:
      s_.phase = Phase::discarding;
      s_.reason = "the agent of the destination was restarted before the tree was restored";
      break;
    case Record::aborted:
      s_.phase = Phase::discarding;
      s_.reason = "aborted";
      s_.abort_recorded = true;
      break;
    case Record::ready:
      s_.phase = Phase::fenced;
      break;
    case Record::commit:
      s_.phase = Phase::activating;
      s_.may_have_run = true;
      break;
    case Record::complete:
    case Record::lost:
      s_.phase = Phase::finishing;
      s_.complete_recorded = s_.pages_complete = true;
      break;
    case Record::finished:
      s_.phase = Phase::done;
      s_.finish_recorded = true;
      s_.complete_recorded = s_.committed;
      s_.discarded = !s_.committed;
      return;
  }
  advance();
}

// ---- Events

void Machine::on(const DestinationActionDone& done) {
  auto it = std::find(s_.running.begin(), s_.running.end(), done.kind);
  if (it == s_.running.end()) return;
  s_.running.erase(it);
  Record recorded = s_.recording;
  auto next = std::find_if(s_.waiting.begin(), s_.waiting.end(),
                           [&](const DestinationAction& a) { return a.kind == done.kind; });
  if (next != s_.waiting.end()) {
    DestinationAction action = std::move(*next);
    s_.waiting.erase(next);
    start(std::move(action));
  }
  if (done.kind == Kind::record) {
    record_done(recorded, done.error);
  } else {
    host_action_done(done);
  }
  advance();
}

void Machine::on(const MessageReceived& message) {
  s_.connected = true;
  switch (message.message) {
    case Message::images:
      if (s_.phase != Phase::prepared) return;
      s_.phase = Phase::restoring;
      s_.deadline.reset();
      act(Kind::restore);
      return;
    case Message::commit:
      commit_received();
      break;
    case Message::abort:
      abort_received(message.reason);
      break;
    case Message::released:
      if (s_.complete_recorded) s_.released_seen = true;
      break;
    default:
      return;  // a second PREPARE, or what only a destination says
  }
  advance();
}

void Machine::commit_received() {
  switch (s_.phase) {
    case Phase::fenced:
      s_.phase = Phase::activating;
      s_.committed = true;
      s_.outcome = Outcome::complete;
      s_.reason.clear();
      s_.deadline.reset();
      return;
    case Phase::activating:
      return;  // answered when the tree runs
    case Phase::running:
      return send(Message::committed);
    case Phase::finishing:
    case Phase::done:
      // It has never run here and never will: the tree went with the machine before the verdict was on the disk.
      if (!s_.committed && s_.begun && s_.discarded) return send(Message::aborted, s_.reason);
      if (!s_.committed) return send(Message::failed, "COMMIT for a migration that has ended here: " + s_.reason);
      send(Message::committed);
      if (s_.complete_recorded) send(Message::complete, s_.lost ? s_.reason : "");
      return;
    case Phase::discarding:
      s_.answer_abort = true;
      return;
    default:
      return send(Message::failed, std::string("COMMIT in phase ") + to_string(s_.phase));
  }
}

void Machine::abort_received(const std::string& why) {
  if (s_.committed) return send(Message::failed, "ABORT after COMMIT: the workload runs here");
  s_.answer_abort = true;
  if (before_verdict()) discard(why.empty() ? "aborted by the source" : "aborted by the source: " + why);
}

void Machine::on(const ConnectionLost&) {
  s_.connected = false;
  if (s_.phase < Phase::fenced) discard("the connection to the source was lost");
  advance();
}

// However slow the link and large the memory: a source that sends pages is a source that goes on.
void Machine::on(const PagesArriving&) {
  if (s_.phase == Phase::prepared) wait_for(kImagesDeadline);
}

void Machine::on(const PagesComplete&) {
  s_.pages_complete = true;
  advance();
}

void Machine::on(const TreeEnded& ended) {
  switch (s_.phase) {
    case Phase::restoring:
      if (running(Kind::restore)) return;  // its end says so
      [[fallthrough]];
    case Phase::fenced:
      // What the source decides for it cannot be any more, and the less it waits for that the sooner it runs again.
      discard(ended.reason);
      if (s_.connected) send(Message::failed, s_.reason);
      break;
    case Phase::activating:
      if (s_.may_have_run || running(Kind::activate)) lose(ended.reason);
      else give_back(ended.reason);
      break;
    case Phase::running:
      if (!s_.pages_complete) lose(ended.reason);
      break;
    default:
      break;
  }
  advance();
}

void Machine::on(const Tick&) {
  if (!s_.deadline || now_ < *s_.deadline) return;
  s_.deadline.reset();
  if (s_.phase == Phase::prepared) {
    discard("the source sent no images in time");
    send(Message::failed, s_.reason);
  }
  // The source is gone, or has never seen COMPLETE: `done` answers it when it comes.
  if (s_.phase == Phase::finishing && s_.finished_here) s_.released_seen = true;
  advance();
}

// ---- Ends of actions

void Machine::record_done(Record r, const std::string& error) {
  switch (r) {
    case Record::begun:
      if (s_.phase != Phase::preparing) return;
      if (error.empty()) return act(Kind::prepare);
      discard("the journal cannot be written: " + error);
      return send(Message::refused, s_.reason);
    case Record::ready:
      if (s_.phase != Phase::restoring) return;
      if (error.empty()) {
        s_.phase = Phase::fenced;
        return send(Message::ready);
      }
      // READY is not out, so that no commit can come.
      discard("the journal cannot be written: " + error);
      return send(Message::failed, s_.reason);
    case Record::commit:
      s_.commit_recorded = error.empty();
      if (s_.phase == Phase::discarding) return;  // given back meanwhile
      if (!s_.lost) return retry("the commit could not be recorded", error);
      if (!error.empty()) wait_for(kRetryPause);
      return;
    case Record::complete:
    case Record::lost:
      s_.complete_recorded = error.empty();
      if (!error.empty()) return r == Record::lost ? wait_for(kRetryPause) : retry("completion could not be recorded", error);
      s_.failures = 0;
      s_.phase = Phase::finishing;
      return send(Message::complete, r == Record::lost ? s_.reason : "");
    case Record::aborted:
      s_.abort_recorded = true;  // without the record the next start of the agent asks the source, or discards anyway
      // But where it would find a commit alone, and take the tree for one that has run and is lost.
      s_.abort_missing = !error.empty() && s_.commit_asked;
      if (s_.abort_missing && s_.discarded) wait_for(kRetryPause);
      return;
    case Record::finished:
      s_.finish_recorded = true;
      if (!error.empty()) s_.reason += (s_.reason.empty() ? "" : "; ") + ("the journal could not be closed: " + error);
      s_.phase = Phase::done;
      return;
  }
}

void Machine::host_action_done(const DestinationActionDone& done) {
  const std::string& error = done.error;
  switch (done.kind) {
    case Kind::prepare:
      if (s_.phase != Phase::preparing) return;
      if (error.empty()) {
        s_.phase = Phase::prepared;
        wait_for(kImagesDeadline);
        return send(Message::prepared);
      }
      // The executor's words stand alone in a refusal: they name the thing, the reason and what to try.
      discard(error);
      return send(Message::refused, s_.reason);
    case Kind::restore:
      if (s_.phase != Phase::restoring) return;
      if (error.empty()) return record(Record::ready);
      discard("restore: " + error);
      return send(Message::failed, s_.reason);
    case Kind::activate:
      return activated(done);
    case Kind::finish:
      return finished_or_not(error);
    case Kind::discard:
      if (s_.lost) return finished_or_not(error);
      s_.discarded = error.empty();
      if (s_.discarded) return;
      if (++s_.failures < kDiscardAttempts) return wait_for(kRetryPause);
      s_.outcome = Outcome::unknown;
      s_.reason += "; what is left of it could not be removed: " + error + kRecoverHint;
      s_.phase = Phase::done;
      return;
    case Kind::query_verdict:
      if (s_.phase == Phase::fenced) wait_for(kRetryPause);
      return;
    default:
      return;
  }
}

void Machine::activated(const DestinationActionDone& done) {
  if (s_.lost) return;
  if (done.tree_gone) return s_.may_have_run ? lose(done.error) : give_back(done.error);
  if (!done.not_thawed) s_.may_have_run = true;
  if (!done.error.empty()) return retry("the workload could not be thawed", done.error);
  s_.failures = 0;
  s_.reason.clear();
  s_.phase = Phase::running;
  send(Message::committed);
}

void Machine::finished_or_not(const std::string& error) {
  s_.finished_here = error.empty();
  if (s_.finished_here) return wait_for(kReleasedDeadline);
  if (++s_.failures < kFinishAttempts) return wait_for(kRetryPause);
  s_.outcome = Outcome::failed_after_commit;
  s_.reason = (s_.lost ? s_.reason + "; what is left of it could not be removed: " : "the workload runs but could not be registered: ") +
              error + kRecoverHint;
  s_.phase = Phase::done;
}

// After the commit there is only forward: tried again without end, the source hears of it once.
void Machine::retry(const std::string& what, const std::string& error) {
  if (error.empty()) {
    s_.failures = 0;
    return;
  }
  s_.reason = what + ": " + error;
  if (s_.failures++ == 0) send(Message::failed, s_.reason);
  wait_for(kRetryPause);
}

void Machine::discard(std::string why) {
  s_.fence_kept = s_.phase == Phase::fenced || s_.phase == Phase::activating;
  s_.phase = Phase::discarding;
  s_.outcome = Outcome::failed;
  s_.reason = std::move(why);
  s_.deadline.reset();
  s_.failures = 0;
}

// Committed, and not thawed: no client has had an answer of it, and the source still has it whole.
void Machine::give_back(const std::string& why) {
  discard(why);
  s_.committed = s_.commit_recorded = false;
  s_.answer_abort = true;
}

void Machine::lose(const std::string& why) {
  if (s_.lost) return;
  s_.lost = true;
  s_.outcome = Outcome::lost;
  s_.reason = why;
  s_.deadline.reset();
  s_.failures = 0;
}

// ---- What the facts allow

void Machine::advance() {
  if (s_.phase == Phase::fenced) advance_fenced();
  if (s_.lost && s_.phase < Phase::finishing) advance_lost();
  if (s_.phase == Phase::activating) advance_activating();
  if (s_.phase == Phase::running && s_.pages_complete && !s_.deadline && !running(Kind::record)) {
    record(Record::complete);
  }
  if (s_.phase == Phase::finishing) advance_finishing();
  if (s_.phase == Phase::discarding) advance_discarding();
  answer_abort();
}

// A source that has given up connecting, or that is slow to come back, is asked for the verdict.
void Machine::advance_fenced() {
  if (!s_.connected && !s_.deadline && !running(Kind::query_verdict)) start({.kind = Kind::query_verdict});
}

void Machine::advance_activating() {
  if (s_.deadline || s_.lost) return;  // the pause after a failure
  if (!s_.commit_recorded) {
    if (running(Kind::record)) return;
    s_.commit_asked = true;
    record(Record::commit);
  } else if (!running(Kind::activate)) {
    act(Kind::activate);
  }
}

void Machine::advance_lost() {
  if (s_.deadline || running(Kind::record) || running(Kind::activate)) return;
  record(s_.commit_recorded ? Record::lost : Record::commit);
}

void Machine::advance_finishing() {
  const Kind last = s_.lost ? Kind::discard : Kind::finish;
  if (!s_.finished_here) {
    if (!s_.deadline && !running(last)) act(last);
    return;
  }
  if (s_.lost && !s_.connected) s_.released_seen = true;  // nobody is there to say it; `done` answers who comes
  if (!s_.released_seen || running(Kind::record)) return;
  s_.deadline.reset();
  record(Record::finished);
}

void Machine::advance_discarding() {
  if (s_.begun && !s_.abort_recorded) {
    bool asked = running(Kind::record) && s_.recording == Record::aborted;
    bool waits = std::any_of(s_.waiting.begin(), s_.waiting.end(),
                             [](const DestinationAction& a) { return a.record == Record::aborted; });
    if (!asked && !waits) record(Record::aborted);
    if (s_.fence_kept) return;
  }
  if (!s_.discarded) {
    if (!s_.deadline && !running(Kind::discard) && !running(Kind::prepare)) act(Kind::discard);
    return;
  }
  bool quiet = !running(Kind::restore) && !running(Kind::prepare) && !running(Kind::query_verdict);
  if (!s_.abort_recorded || !quiet || running(Kind::record)) return;
  if (!s_.abort_missing) return record(Record::finished);
  if (!s_.deadline) record(Record::aborted);
}

void Machine::answer_abort() {
  if (!s_.answer_abort || !s_.discarded) return;
  s_.answer_abort = false;
  send(Message::aborted, s_.reason);
}

}  // namespace

DestinationStep start_destination(Timestamp now) {
  Machine machine(DestinationState{}, now);
  machine.begin();
  return machine.take();
}

DestinationStep recover_destination(const std::vector<Record>& records, Timestamp now) {
  Machine machine(DestinationState{}, now);
  machine.recover(records);
  return machine.take();
}

DestinationStep step(const DestinationState& state, const DestinationEvent& event, Timestamp now) {
  Machine machine(state, now);
  std::visit([&](const auto& e) { machine.on(e); }, event);
  return machine.take();
}

bool nothing_left(const DestinationState& state) {
  return state.phase == DestinationPhase::done && state.finish_recorded;
}

}  // namespace mose::plan
