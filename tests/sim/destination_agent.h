// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "sim/bench.h"
#include "sim/network.h"
#include "sim/node_journal.h"
#include "sim/world.h"

// The destination's agent as the planner's executor, with the pager that outlives it.
namespace mose::sim {

class DestinationAgent {
 public:
  DestinationAgent(Bench& bench, World& world, Network& network)
      : bench_(bench), world_(world), network_(network), journal_(bench, Side::destination, world.destination_disk) {}

  void recover();  // `mose recover`, and what every start of the agent does
  void crash();
  void restart();
  void receive(Network::Id id, plan::Message message, const std::string& reason);
  void lost(Network::Id id);
  void stop();            // `mose stop`: the tree is ended, whatever it still misses
  void forget(bool thrown_away);  // dies, and finds nothing of it when it starts
  [[nodiscard]] bool has_nothing() const;  // and says so, for ever
  void clean_up();  // `mose cleanup`: what no record names
  void pages_complete();  // the pager says so; a starting agent asks it

  [[nodiscard]] bool up() const { return up_; }
  [[nodiscard]] const std::optional<plan::DestinationState>& state() const { return state_; }
  // Why its journal decides nothing, where that is so; the migration is listed with it.
  [[nodiscard]] const std::string& undecided() const { return undecided_; }
  std::vector<plan::DestinationPhase> crashes;  // phases in which it died
  std::function<void()> step_crashed;
  std::function<plan::Verdict()> ask_source;  // undecided when it cannot be asked

 private:
  using Kind = plan::DestinationActionKind;

  void go_on(const NodeJournal::Found& found);
  void event(const plan::DestinationEvent& event);
  void apply(plan::DestinationStep step);
  void execute(const plan::DestinationAction& action);
  void execute_on_tree(const plan::DestinationAction& action, uint64_t token);
  void restore(uint64_t token, bool fails);
  void await_memory(uint64_t token);
  void activate(uint64_t token, bool fails, bool coin);
  void kill_fenced();
  void look_at_tree();
  void later(Kind kind, uint64_t token, Nanoseconds delay, std::function<void()> run);
  void end_later(Kind kind, uint64_t token, Nanoseconds delay, bool fails, std::function<void()> effect);
  void end(Kind kind, std::string error);
  void lose_restore();
  void answer_stray(Network::Id id, plan::Message message);
  void note_end();

  Bench& bench_;
  World& world_;
  Network& network_;
  bool up_ = true;
  uint64_t life_ = 0;
  uint64_t ticks_ = 0;
  std::optional<plan::DestinationState> state_;
  UnderWay<Kind> under_way_;
  NodeJournal journal_;
  std::string undecided_;
  Network::Id connection_ = 0;
};

}  // namespace mose::sim
