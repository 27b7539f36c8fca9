// SPDX-License-Identifier: MIT
#include "plan/source.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "plan/rounds.h"
#include "plan/source_machine.h"
#include "plan/strategy.h"

namespace mose::plan {

void SourceMachine::start(SourceAction action) {
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

void SourceMachine::recover(const std::vector<Record>& records, bool has_run_there) {
  s_.begun = true;
  s_.touched = true;
  Record last = records.empty() ? Record::begun : records.back();
  const bool commit = committed(records);
  s_.verdict = commit ? Verdict::commit : Verdict::abort;
  s_.finish_recorded = last == Record::finished;
  s_.outcome = commit ? Outcome::complete : Outcome::failed;
  s_.given_up = contains(records, Record::lost);
  if (s_.given_up) {
    s_.verdict = Verdict::abort;
    s_.outcome = Outcome::lost;
    s_.reason = kGivenUp;
  }
  s_.prepare_out = true;
  s_.has_run_there = has_run_there;
  if (s_.finish_recorded) {
    s_.phase = Phase::done;
    return;
  }
  if (commit) {
    s_.phase = Phase::committed;
    s_.complete_recorded = last == Record::complete || s_.given_up;
    s_.committed_seen = s_.complete_seen = s_.complete_recorded;
    s_.redirect_settled = s_.given_up;
  } else {
    s_.phase = Phase::aborting;
    s_.stopped = true;
    s_.resume_wanted = true;
    s_.abort_recorded = last == Record::aborted;
    s_.overruled = contains(records, Record::commit);
    s_.reason = s_.overruled ? "the commit was taken back" : "the agent of the source was restarted before the commit";
  }
  advance();
}

// ---- Events

void SourceMachine::on(const SourceActionDone& done) {
  auto it = std::find(s_.running.begin(), s_.running.end(), done.kind);
  if (it == s_.running.end()) return;
  s_.running.erase(it);
  Record recorded = s_.recording;
  Message sent = s_.sending;
  auto next =
      std::find_if(s_.waiting.begin(), s_.waiting.end(), [&](const SourceAction& a) { return a.kind == done.kind; });
  if (next != s_.waiting.end()) {
    SourceAction action = std::move(*next);
    s_.waiting.erase(next);
    start(std::move(action));
  }
  switch (done.kind) {
    case Kind::record:
      record_done(recorded, done.error);
      break;
    case Kind::connect:
      connect_done(done.error);
      break;
    case Kind::send:
      send_done(sent, done.error);
      break;
    case Kind::wait_retry:
      s_.pause_wanted = false;
      break;
    case Kind::close:
      return;
    default:
      host_action_done(done);
  }
  advance();
}

void SourceMachine::on(const MessageReceived& message) {
  const std::string& why = message.reason;
  switch (message.message) {
    case Message::prepared:
      if (s_.phase != Phase::preparing || !s_.prepare_out) return;
      s_.deadline.reset();
      if (precopies(s_.strategy)) {
        s_.phase = Phase::precopy;
        s_.round = 1;
        start({.kind = Kind::precopy_round, .round = 1});
      } else {
        arm();
      }
      return;
    case Message::refused:
      if (!s_.prepare_out || !(undecided() || s_.phase == Phase::aborting)) return;
      s_.peer_settled = true;
      if (undecided()) abort(Outcome::refused, why.empty() ? "the destination refuses" : why);
      break;
    case Message::ready:
      if (s_.phase != Phase::dumping && s_.phase != Phase::restoring) return;
      s_.ready_seen = true;
      check_ready();
      break;
    case Message::failed:
      if (undecided() && s_.prepare_out) abort(Outcome::failed, why.empty() ? "the destination failed" : why);
      // After the commit the destination goes on trying; what it says is for the operator.
      if (forward_only() && !s_.given_up) s_.reason = why;
      // The operator was wrong about it, or the destination itself. Nobody but him can end one of the two.
      if (s_.phase == Phase::aborting && s_.overruled && s_.verdict_out) {
        s_.peer_settled = true;
        s_.reason += std::string("; ") + kMayRunTwice + ": " + why;
      }
      break;
    case Message::committed:
      if (s_.phase != Phase::committed || !s_.verdict_out) return;
      s_.committed_seen = s_.has_run_there = true;
      s_.reason.clear();  // of a thaw that had to be tried again
      break;
    case Message::complete:
      if ((s_.phase == Phase::committed || s_.phase == Phase::serving) && s_.verdict_out) {
        s_.committed_seen = s_.has_run_there = s_.complete_seen = true;
        // The tree there has ended before it had every page: nobody will ask for the rest.
        if (!why.empty()) {
          s_.outcome = Outcome::lost;
          s_.reason = why;
        }
      }
      break;
    case Message::aborted:
      if (s_.phase == Phase::aborting && s_.verdict == Verdict::abort) s_.peer_settled = true;
      if ((s_.phase == Phase::committed || s_.phase == Phase::serving) && s_.verdict_out && !s_.complete_seen) given_back(why);
      break;
    default:
      return;  // what only a source says
  }
  advance();
}

void SourceMachine::on(const ConnectionLost& lost) {
  if (!s_.connected) return;
  lose_connection(lost.reason);
  advance();
}

void SourceMachine::on(const CancelRequested&) {
  s_.cancel_wanted = true;
  if (undecided()) abort(Outcome::cancelled, "cancelled");
  advance();
}

void SourceMachine::on(const PagesLeft& left) {
  if (!s_.map_sent || !undecided()) return;
  s_.pages_left = std::min(s_.pages_left, left.pages);
  check_ready();
  advance();
}

void SourceMachine::on(const DestinationGone& gone) {
  if (!may_decide(s_, gone)) return;
  s_.given_up = true;
  s_.connected = s_.verdict_out = false;  // of one that knows nothing: the next connection is told anew
  s_.pause_wanted = false;                // that was before the next attempt to reach it
  if (gone.choice == GoneChoice::resume) {
    overrule_commit();
    abort(Outcome::failed, "the operator has resumed it at the source: the destination will not run it");
  } else {
    end_in_place();
  }
  advance();
}

void SourceMachine::on(const Tick&) {
  if (!s_.deadline || now_ < *s_.deadline) return;
  s_.deadline.reset();
  switch (s_.phase) {
    case Phase::preparing:
      abort(s_.touched ? Outcome::failed : Outcome::refused, "the destination did not answer in time while preparing");
      break;
    case Phase::arming:
    case Phase::quiescing:
    case Phase::freezing:
    case Phase::dumping:
      abort(Outcome::failed, "the dump did not end in time");
      break;
    case Phase::restoring:
      abort(Outcome::failed, "the destination was not ready in time");
      break;
    case Phase::aborting:
      lose_connection("no answer to ABORT");
      break;
    default:
      break;  // after the commit no wait has an end
  }
  advance();
}

// ---- Ends of actions

void SourceMachine::record_done(Record r, const std::string& error) {
  switch (r) {
    case Record::begun:
      if (s_.phase != Phase::preflight) return;
      if (!error.empty()) return abort(Outcome::refused, "the journal cannot be written: " + error);
      s_.phase = Phase::preparing;
      wait_for(kPrepareDeadline);
      start({.kind = Kind::connect});
      return;
    case Record::commit:
      return commit_record_done(error);
    case Record::aborted:
      return abort_record_done(error);
    case Record::complete:
      s_.complete_recorded = true;  // without it the next start of the agent asks the destination again
      return;
    case Record::lost:
      if (!error.empty()) {
        // A destination that comes back must find it, before the tree has gone.
        ++s_.record_failures;
        s_.pause_wanted = true;
        return;
      }
      s_.complete_recorded = true;
      s_.verdict = Verdict::abort;
      return;
    case Record::finished:
      s_.finish_recorded = true;
      // The world is as it should be; the next start of the agent does the rest again and closes the journal.
      if (!error.empty()) s_.reason += (s_.reason.empty() ? "" : "; ") + ("the journal could not be closed: " + error);
      return;
    default:
      return;
  }
}

void SourceMachine::commit_record_done(const std::string& error) {
  if (error.empty()) {
    s_.verdict = Verdict::commit;
    s_.phase = Phase::committed;
    s_.outcome = Outcome::complete;
    s_.reason.clear();
    return;
  }
  s_.commit_doubtful = true;
  abort(s_.cancel_wanted ? Outcome::cancelled : Outcome::failed, "the commit could not be recorded: " + error);
}

void SourceMachine::abort_record_done(const std::string& error) {
  if (s_.phase != Phase::aborting) return;
  if (error.empty() || !s_.commit_doubtful) {
    // Without a commit record the next start of the agent aborts even when this record is missing.
    s_.abort_recorded = true;
    s_.verdict = Verdict::abort;
    return;
  }
  if (++s_.record_failures < kAbortRecordAttempts) {
    s_.pause_wanted = true;
    return;
  }
  give_up(s_.reason + "; neither could the abort: " + error +
          "; the source stays stopped until the journal can be read: `mose recover`");
}

void SourceMachine::connect_done(const std::string& error) {
  s_.connected = error.empty();
  if (s_.phase == Phase::preparing) {
    // An unreachable or unfit destination is known before anything but the journal was touched.
    if (!error.empty()) return abort(Outcome::refused, error);
    s_.touched = true;
    s_.prepare_out = true;
    wait_for(kPrepareDeadline);
    return send(Message::prepare);
  }
  s_.verdict_out = false;
  if (error.empty()) return;
  ++s_.connect_failures;
  s_.pause_wanted = true;
}

void SourceMachine::send_done(Message m, const std::string& error) {
  if (!error.empty()) {
    if (s_.connected) lose_connection(std::string("cannot send ") + to_string(m) + ": " + error);
    return;
  }
  if (m == Message::images) {
    s_.images_sent = true;
    check_restoring();
  }
}

void SourceMachine::host_action_done(const SourceActionDone& done) {
  const std::string& error = done.error;
  auto retry = [&](unsigned& failures) {
    ++failures;
    s_.pause_wanted = true;
    return failures;
  };
  switch (done.kind) {
    case Kind::resume_source:
      s_.resumed = error.empty();
      if (!error.empty() && retry(s_.resume_failures) >= kResumeAttempts) {
        give_up("the source could not be resumed: " + error + kRecoverHint);
      }
      return;
    case Kind::redirect:
      if (s_.given_up) return;  // of a destination that is no more
      s_.redirect_settled = error.empty();
      if (!error.empty() && retry(s_.redirect_failures) >= kRedirectAttempts) {
        s_.redirect_settled = true;
        s_.outcome = Outcome::failed_after_commit;
        s_.reason = "held packets could not be redirected: " + error;
      }
      return;
    case Kind::kill_source:
      s_.killed = error.empty();
      if (!error.empty() && retry(s_.kill_failures) >= kKillAttempts) {
        s_.outcome = Outcome::failed_after_commit;
        s_.reason = "the stopped source tree could not be removed: " + error + kRecoverHint;
        s_.pause_wanted = false;
      }
      return;
    default:
      break;
  }
  if (!undecided()) return;  // a late end of something that the abort has overtaken
  if (!error.empty()) {
    // The executor's words stand alone in a refusal: they name the thing, the reason and what to try.
    bool refusal = done.kind == Kind::preflight;
    return abort(refusal ? Outcome::refused : Outcome::failed,
                 refusal ? error : std::string(to_string(done.kind)) + ": " + error);
  }
  switch (done.kind) {
    case Kind::preflight:
      s_.begun = true;
      return record(Record::begun);
    case Kind::precopy_round:
      return round_done(done.stats);
    case Kind::make_standby:
      return standby_done();
    case Kind::arm_dump:
      s_.phase = Phase::quiescing;
      return start({.kind = Kind::quiesce});
    case Kind::quiesce:
      s_.phase = Phase::freezing;
      s_.stopped = true;
      return start({.kind = Kind::freeze});
    case Kind::freeze:
      s_.phase = Phase::dumping;
      start({.kind = Kind::dump});
      return start({.kind = Kind::final_scan});
    case Kind::dump:
      send(Message::images);
      return start({.kind = Kind::finish_dump});
    case Kind::final_scan:
      s_.map_sent = true;
      s_.pages_left = done.final.pages_left;
      return check_restoring();
    case Kind::finish_dump:
      s_.dump_finished = true;
      return check_ready();
    default:
      return;
  }
}

void SourceMachine::round_done(const RoundStats& stats) {
  const RoundFacts facts{.round = s_.round,
                         .rounds_max = std::max(s_.options.rounds_max, 1u) + rounds_of_steps(s_.throttle_percent),
                         .pages_sent = stats.pages_sent,
                         .pages_before = s_.last_pages_sent,
                         .pages_present = stats.pages_present,
                         .link_bps = stats.link_bps,
                         .outlook = stats.outlook,
                         .throttle_percent = s_.throttle_percent,
                         .slowed_now = std::exchange(s_.slowed_now, false),
                         .write_fault_seconds = stats.write_fault_seconds,
                         .pages_next_protected = stats.pages_next_protected};
  s_.last_pages_sent = stats.pages_sent;
  s_.link_bps = stats.link_bps;
  s_.outlook = stats.outlook;
  s_.unprepared = stats.unprepared;
  if (s_.options.standby && !s_.standby_tried && s_.round < s_.options.rounds_max) {
    s_.phase = Phase::standby;
    s_.standby_tried = true;
    s_.stopped = true;
    return start({.kind = Kind::make_standby});
  }
  const RoundVerdict verdict = after_round(facts);
  if (s_.closing && shortens_stop(facts)) return next_round();
  if (s_.closing && !facts.slowed_now && !goes_on_prepared(facts))
    return end_rounds(facts, verdict == RoundVerdict::another ? without_another(facts) : verdict);
  if (auto percent = s_.options.auto_converge ? slow_down(verdict, s_.throttle_percent) : std::nullopt) {
    s_.throttle_percent = *percent;
    s_.slowed_now = true;
    return next_round();
  }
  if (stats.unprepared && closing_follows(facts, verdict, all_rounds())) return closing_round();
  if (verdict == RoundVerdict::another) return next_round();
  end_rounds(facts, verdict);
}

void SourceMachine::end_rounds(const RoundFacts& last, RoundVerdict verdict) {
  StrategyChoice choice = choose_strategy(s_.options.strategy, last, verdict);
  s_.strategy = choice.strategy;
  s_.strategy_reason = std::move(choice.reason);
  s_.rounds_ended = verdict;
  arm();
}

unsigned SourceMachine::all_rounds() const {
  return rounds_at_most(s_.options.rounds_max, s_.options.auto_converge);
}

void SourceMachine::next_round(bool closing) {
  start({.kind = Kind::precopy_round, .round = ++s_.round, .throttle_percent = s_.throttle_percent, .closing = closing});
}

void SourceMachine::closing_round() {
  s_.closing = true;
  next_round(true);
}

// What was written meanwhile goes in a round of its own.
void SourceMachine::standby_done() {
  s_.phase = Phase::precopy;
  if (s_.unprepared && s_.round + 1 >= all_rounds()) return closing_round();
  next_round();
}

void SourceMachine::lose_connection(const std::string& why) {
  s_.connected = false;
  s_.verdict_out = false;
  if (undecided()) return abort(Outcome::failed, why.empty() ? "the connection to the destination was lost" : why);
  bool wanted = s_.phase == Phase::aborting || (forward_only() && !s_.complete_seen);
  if (wanted) {
    ++s_.connect_failures;
    s_.pause_wanted = true;
  }
}

// ---- The way forward, up to the commit record

void SourceMachine::arm() {
  s_.phase = Phase::arming;
  s_.armed = true;
  wait_for(kDumpDeadline);
  start({.kind = Kind::arm_dump});
}

void SourceMachine::check_restoring() {
  if (s_.phase != Phase::dumping || !s_.images_sent || !s_.map_sent) return;
  s_.phase = Phase::restoring;
  // What has to be there before READY or the commit takes its time, and the link may have become slower.
  uint64_t awaited = memory_first(s_.strategy) ? s_.pages_left : 0;
  if (auto most = pages_left_max(s_)) awaited = s_.pages_left - std::min(*most, s_.pages_left);
  wait_for(kReadyDeadline + kSlowerThanSeen * time_to_send(awaited, s_.link_bps));
  check_ready();
}

void SourceMachine::check_ready() {
  if (s_.phase != Phase::restoring || !s_.ready_seen || !s_.dump_finished) return;
  if (auto most = pages_left_max(s_); most && s_.pages_left > *most) return;
  s_.phase = Phase::committing;
  // No bound, though the workload stands still: what was handed to a disk that hangs is there when it answers again, or is there already.
  // The executor says so where it takes long.
  s_.deadline.reset();
  record(Record::commit);
}

// ---- The outside

SourceStep start_source(const MigrationOptions& options, Timestamp now) {
  SourceState state;
  state.options = options;
  StrategyChoice choice = choose_strategy(options.strategy);
  state.strategy = choice.strategy;
  state.strategy_reason = std::move(choice.reason);
  SourceMachine machine(std::move(state), now);
  machine.begin();
  return machine.take();
}

SourceStep recover_source(const std::vector<Record>& records, bool has_run_there, Timestamp now) {
  SourceMachine machine(SourceState{}, now);
  machine.recover(records, has_run_there);
  return machine.take();
}

SourceStep step(const SourceState& state, const SourceEvent& event, Timestamp now) {
  SourceMachine machine(state, now);
  std::visit([&](const auto& e) { machine.on(e); }, event);
  return machine.take();
}

std::optional<uint64_t> pages_left_max(const SourceState& state) {
  return pages_left_max(state.options.strategy, state.link_bps);
}

bool may_decide(const SourceState& state, const DestinationGone& gone) {
  const bool waits = state.phase == SourcePhase::committed || (state.phase == SourcePhase::serving && !state.complete_seen);
  if (!waits || (state.connected && !gone.knows_nothing)) return false;
  return gone.choice == GoneChoice::end || !state.has_run_there;
}

bool before_commit(const SourceState& state) {
  if (state.phase == SourcePhase::aborting) return !state.commit_doubtful;
  return state.phase < SourcePhase::committing;
}

bool settled(const SourceState& state) {
  if (state.phase == SourcePhase::done) return true;
  if (state.phase != SourcePhase::aborting) return false;
  if (!state.begun) return state.running.empty();
  return state.abort_recorded && (!state.resume_wanted || state.resumed);
}

Verdict verdict(const SourceState& state) {
  return state.verdict;
}

bool nothing_left(const SourceState& state) {
  return state.phase == SourcePhase::done && (state.finish_recorded || !state.begun);
}

}  // namespace mose::plan
