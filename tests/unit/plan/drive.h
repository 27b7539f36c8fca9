// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/destination.h"
#include "plan/source.h"

// Plays events into a planner and gives the actions of the last step as words: "send prepare", "record begun",
// "precopy_round 2", "precopy_round 3 slowed by 20", "freeze".
namespace mose::plan::test {

using Words = std::vector<std::string>;

template <typename Action>
std::string word(const Action& action) {
  std::string kind = to_string(action.kind);
  if (kind == "send") return kind + " " + to_string(action.message);
  if (kind == "record") return kind + " " + to_string(action.record);
  return kind;
}

inline std::string word(const SourceAction& action) {
  std::string text = word<SourceAction>(action);
  if (action.kind != SourceActionKind::precopy_round) return text;
  text += " " + std::to_string(action.round);
  if (action.throttle_percent != 0) text += " slowed by " + std::to_string(action.throttle_percent);
  return action.closing ? text + " closing" : text;
}

template <typename State, typename Step, typename Done>
class Drive {
 public:
  using Kind = decltype(Done::kind);

  explicit Drive(Step first) { take(std::move(first)); }

  const Words& play(const auto& event) {
    take(step(state, event, now));
    return actions;
  }
  const Words& done(Kind kind, std::string error = {}) { return play(Done{.kind = kind, .error = std::move(error)}); }
  const Words& hears(Message message, std::string reason = {}) {
    return play(MessageReceived{message, std::move(reason)});
  }
  const Words& loses_connection() { return play(ConnectionLost{"reset"}); }
  // Time passes until the deadline, which must be set.
  const Words& waits_out() {
    now = state.deadline.value();
    return play(Tick{});
  }

  State state;
  Words actions;
  std::vector<std::string> reasons;  // of the same actions
  Timestamp now{};

 private:
  void take(Step next) {
    state = std::move(next.state);
    actions.clear();
    reasons.clear();
    for (const auto& action : next.actions) {
      actions.push_back(word(action));
      reasons.push_back(action.reason);
    }
  }
};

using SourceDriveBase = Drive<SourceState, SourceStep, SourceActionDone>;
using DestinationDrive = Drive<DestinationState, DestinationStep, DestinationActionDone>;

// A source with shortcuts along the way of a migration in which nothing goes wrong.
class SourceDrive : public SourceDriveBase {
 public:
  explicit SourceDrive(MigrationOptions options = {}) : SourceDriveBase(start_source(options, Timestamp{})) {}
  static SourceDrive recovering(const std::vector<Record>& records, bool has_run_there = false) {
    return SourceDrive(recover_source(records, has_run_there, Timestamp{}));
  }

  const Words& round_sent(uint64_t pages) {
    return play(SourceActionDone{.kind = SourceActionKind::precopy_round, .stats = {.pages_sent = pages}});
  }
  const Words& scanned(uint64_t pages_left) {
    return play(SourceActionDone{.kind = SourceActionKind::final_scan, .final = {.pages_left = pages_left}});
  }
  SourceDrive& to_begun() {
    done(SourceActionKind::preflight);
    done(SourceActionKind::record);
    return *this;
  }
  SourceDrive& to_prepare_sent() {
    to_begun().done(SourceActionKind::connect);
    done(SourceActionKind::send);
    return *this;
  }
  SourceDrive& to_precopy() {
    to_prepare_sent().hears(Message::prepared);
    return *this;
  }
  SourceDrive& to_arming() {
    to_precopy().round_sent(1);
    return *this;
  }
  SourceDrive& to_quiescing() {
    to_arming().done(SourceActionKind::arm_dump);
    return *this;
  }
  SourceDrive& to_freezing() {
    to_quiescing().done(SourceActionKind::quiesce);
    return *this;
  }
  SourceDrive& to_dumping() {
    to_freezing().done(SourceActionKind::freeze);
    return *this;
  }
  SourceDrive& to_restoring() {
    to_dumping().done(SourceActionKind::dump);
    done(SourceActionKind::send);
    done(SourceActionKind::finish_dump);
    done(SourceActionKind::final_scan);
    return *this;
  }
  SourceDrive& to_committing() {
    to_restoring().hears(Message::ready);
    return *this;
  }
  SourceDrive& to_committed() {
    to_committing().done(SourceActionKind::record);
    done(SourceActionKind::send);
    return *this;
  }
  SourceDrive& to_serving() {
    to_committed().hears(Message::committed);
    return *this;
  }
  SourceDrive& to_finishing() {
    to_serving().done(SourceActionKind::redirect);
    hears(Message::complete);
    done(SourceActionKind::record);  // of `complete`
    return *this;
  }

 private:
  explicit SourceDrive(SourceStep first) : SourceDriveBase(std::move(first)) {}
};

}  // namespace mose::plan::test
