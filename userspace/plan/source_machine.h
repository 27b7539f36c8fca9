// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "plan/source.h"

// Inside of plan/source: the machine that step() sets up with a state, plays one event into and takes the next state
// from. Lives as long as one call. source.cpp holds events and the way to the commit record, source_ends.cpp the two
// ways from there: back, and after the record only forward.
namespace mose::plan {

// The reason of a `lost` at the source.
inline constexpr const char* kGivenUp = "given up by the operator of the source: the destination will not come back";

// One step: events change facts in the state, then advance() emits what the facts allow and what is not under way yet.
class SourceMachine {
 public:
  SourceMachine(SourceState state, Timestamp now) : s_(std::move(state)), now_(now) {}

  void begin() { start({.kind = SourceActionKind::preflight}); }
  void recover(const std::vector<Record>& records, bool has_run_there);

  void on(const SourceActionDone& done);
  void on(const MessageReceived& message);
  void on(const ConnectionLost& lost);
  void on(const CancelRequested&);
  void on(const PagesLeft& left);
  void on(const DestinationGone& gone);
  void on(const Tick&);

  SourceStep take() { return {std::move(s_), std::move(out_)}; }

 private:
  using Kind = SourceActionKind;
  using Phase = SourcePhase;

  [[nodiscard]] bool running(Kind kind) const {
    return std::find(s_.running.begin(), s_.running.end(), kind) != s_.running.end();
  }
  [[nodiscard]] bool undecided() const { return s_.phase < Phase::committing; }
  [[nodiscard]] bool forward_only() const {
    return s_.phase == Phase::committed || s_.phase == Phase::serving || s_.phase == Phase::finishing;
  }

  // Emits the action, or keeps it until the one of its kind that is under way has ended.
  void start(SourceAction action);
  void record(Record r) { start({.kind = Kind::record, .record = r}); }
  void send(Message m, std::string reason = {}) {
    start({.kind = Kind::send, .message = m, .reason = std::move(reason)});
  }
  void wait_for(Nanoseconds time) { s_.deadline = now_ + time; }

  void record_done(Record r, const std::string& error);
  void commit_record_done(const std::string& error);
  void abort_record_done(const std::string& error);
  void connect_done(const std::string& error);
  void send_done(Message m, const std::string& error);
  void host_action_done(const SourceActionDone& done);
  void round_done(const RoundStats& stats);
  [[nodiscard]] unsigned all_rounds() const;
  void next_round(bool closing = false);
  void closing_round();
  void standby_done();
  void end_rounds(const RoundFacts& last, RoundVerdict verdict);
  void lose_connection(const std::string& why);

  void arm();
  void check_restoring();
  void check_ready();
  void abort(Outcome outcome, std::string why);
  void given_back(const std::string& why);
  void take_back(const std::string& why);
  void overrule_commit();
  void end_in_place();
  void give_up(std::string why);

  void advance();
  void advance_aborting();
  void tell_abort();
  void advance_committed();
  void advance_finishing();
  void pause();
  void close();

  SourceState s_;
  Timestamp now_;
  std::vector<SourceAction> out_;
};

}  // namespace mose::plan
