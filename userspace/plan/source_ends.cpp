// SPDX-License-Identifier: MIT
#include <algorithm>

#include "plan/source_machine.h"

namespace mose::plan {

// ---- The way back

void SourceMachine::abort(Outcome outcome, std::string why) {
  s_.phase = Phase::aborting;
  s_.outcome = outcome;
  s_.reason = std::move(why);
  s_.deadline.reset();
  s_.waiting.clear();
  s_.resume_wanted = s_.stopped || s_.armed || s_.closing || s_.throttle_percent != 0;
  s_.connect_failures = 0;
  // A commit record that may be durable is overruled only by an aborted record that is.
  if (!s_.commit_doubtful) s_.verdict = Verdict::abort;
}

// Of one that has run there nobody has the state of now: what is stopped here is older than the answers that clients have had, and does
// not run again. That it is worth nothing either is for the operator to say.
void SourceMachine::given_back(const std::string& why) {
  if (!s_.has_run_there) return take_back(why);
  s_.reason = std::string(kThrownAway) + (why.empty() ? "" : ": " + why);
}

// The answer to COMMIT is ABORTED: the destination's machine went down with the tree before it had the verdict, and promises
// that it never runs. Nobody has had an answer of it, and this tree is whole: an abort on the disk overrules the commit.
void SourceMachine::take_back(const std::string& why) {
  overrule_commit();
  s_.peer_settled = true;
  abort(Outcome::failed, "the destination lost the workload before it ran there" + (why.empty() ? "" : ": " + why));
}

// Only an abort that is on the disk does it; until then nobody is told anything.
void SourceMachine::overrule_commit() {
  s_.commit_doubtful = s_.overruled = true;
  s_.verdict = Verdict::undecided;
  s_.stopped = true;
}

// By the operator's word nobody will ask for the tree any more. Nor is the destination told: if it comes back, it asks.
void SourceMachine::end_in_place() {
  s_.phase = Phase::finishing;
  s_.verdict = Verdict::undecided;
  s_.outcome = Outcome::lost;
  s_.reason = kGivenUp;
  s_.deadline.reset();
  s_.waiting.clear();
  s_.complete_seen = s_.redirect_settled = true;
}

void SourceMachine::give_up(std::string why) {
  s_.outcome = Outcome::unknown;
  s_.reason = std::move(why);
  s_.pause_wanted = false;
}

void SourceMachine::advance() {
  if (s_.phase == Phase::aborting) advance_aborting();
  if (s_.phase == Phase::committed || s_.phase == Phase::serving) advance_committed();
  if (s_.phase == Phase::finishing) advance_finishing();
}

void SourceMachine::advance_aborting() {
  if (s_.outcome == Outcome::unknown) return close();
  if (!s_.begun) return close();
  if (!s_.abort_recorded && s_.commit_doubtful) {
    // No bound: a commit may be on the disk, whatever it answers or does not, and the next agent would go forward by it. What runs before
    // an abort is there as well may run twice.
    if (s_.pause_wanted) return pause();
    if (!running(Kind::record)) record(Record::aborted);
    return;
  }
  // Without a commit the journal leads back with this record and without it: a disk that hangs keeps nobody stopped, and the destination
  // hears of it.
  if (!s_.abort_recorded && !running(Kind::record)) record(Record::aborted);
  bool stopped = s_.resume_wanted && !s_.resumed;
  bool may_resume = s_.resume_failures == 0 || !s_.pause_wanted;
  if (stopped && may_resume && !running(Kind::resume_source) && !running(Kind::freeze)) {
    start({.kind = Kind::resume_source, .reason = s_.reason});
  }
  tell_abort();
  if (s_.pause_wanted) return pause();
  if (!s_.abort_recorded || stopped || (s_.prepare_out && !s_.peer_settled) || !s_.running.empty()) return;
  if (!s_.finish_recorded) return record(Record::finished);
  close();
}

void SourceMachine::tell_abort() {
  if (!s_.prepare_out || s_.peer_settled) {
    s_.deadline.reset();
    // A pause that only the next attempt wanted is not needed any more.
    if (!s_.resume_wanted || s_.resumed) s_.pause_wanted = false;
    return;
  }
  if (s_.connect_failures >= kAbortAttempts) {
    // A fenced tree there asks for the verdict by itself, anything else was discarded when the connection was lost.
    s_.peer_settled = true;
    s_.reason += "; the destination could not be told";
    return tell_abort();
  }
  if (s_.connected) {
    if (s_.verdict_out) return;
    s_.verdict_out = true;
    wait_for(kAbortedDeadline);
    return send(Message::abort, s_.reason);
  }
  s_.deadline.reset();
  if (!s_.pause_wanted && !running(Kind::connect)) start({.kind = Kind::connect});
}

// ---- After the commit record: only forward

void SourceMachine::advance_committed() {
  if (s_.committed_seen) {
    s_.phase = Phase::serving;
    bool may_redirect = s_.redirect_failures == 0 || !s_.pause_wanted;
    if (!s_.redirect_settled && may_redirect && !running(Kind::redirect)) start({.kind = Kind::redirect});
  }
  if (s_.complete_seen && s_.redirect_settled) {
    s_.phase = Phase::finishing;
    s_.pause_wanted = false;
    return;
  }
  if (!s_.complete_seen && !s_.connected && !s_.pause_wanted && !running(Kind::connect)) start({.kind = Kind::connect});
  if (s_.connected && !s_.verdict_out) {
    s_.verdict_out = true;
    send(Message::commit);
  }
  if (s_.pause_wanted) pause();
}

void SourceMachine::advance_finishing() {
  // A tree that has gone is this kill only if that is written; else it died, and the destination waits for its COMMIT.
  if (!s_.complete_recorded) {
    if (s_.pause_wanted) return pause();
    if (!running(Kind::record)) record(s_.given_up ? Record::lost : Record::complete);
    return;
  }
  if (!s_.killed && s_.kill_failures < kKillAttempts) {
    if (s_.pause_wanted) return pause();
    if (!running(Kind::kill_source)) start({.kind = Kind::kill_source});
    return;
  }
  // Without `finished` the next start of the agent tries the kill again.
  if (s_.killed && !s_.finish_recorded) {
    if (!running(Kind::record)) record(Record::finished);
    return;
  }
  if (s_.killed && s_.connected && !s_.given_up && s_.sending != Message::released) return send(Message::released);
  close();
}

void SourceMachine::pause() {
  if (running(Kind::wait_retry)) return;
  unsigned failures =
      std::max({s_.connect_failures, s_.record_failures, s_.resume_failures, s_.redirect_failures, s_.kill_failures});
  start({.kind = Kind::wait_retry, .round = failures});
}

void SourceMachine::close() {
  s_.deadline.reset();
  if (!s_.running.empty()) return;
  s_.phase = Phase::done;
  start({.kind = Kind::close, .reason = s_.reason});
}

}  // namespace mose::plan
