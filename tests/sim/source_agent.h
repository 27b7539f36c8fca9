// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "sim/bench.h"
#include "sim/network.h"
#include "sim/node_journal.h"
#include "sim/world.h"

// The source's agent as the planner's executor: actions take time, change the world half-way or at their end, and fail;
// a crash loses everything but the world. What each action leaves behind follows what was seen with real CRIU.
namespace mose::sim {

class SourceAgent {
 public:
  SourceAgent(Bench& bench, World& world, Network& network)
      : bench_(bench), world_(world), network_(network), journal_(bench, Side::source, world.source_disk) {}

  void migrate(const MigrationOptions& options);  // the operator's `mose migrate`
  void cancel();
  void recover();  // `mose recover`, and what every start of the agent does
  // What its operator says of a destination that is gone for good.
  void decide(const plan::DestinationGone& gone);
  void crash();
  void restart();
  void receive(Network::Id id, plan::Message message, const std::string& reason);
  void lost(Network::Id id);

  [[nodiscard]] bool up() const { return up_; }
  [[nodiscard]] const std::optional<plan::SourceState>& state() const { return state_; }
  [[nodiscard]] Network::Id connection() const { return connection_; }
  // What a destination that asks hears.
  [[nodiscard]] plan::Verdict verdict() const;
  // Why its journal decides nothing, where that is so; the migration is listed with it.
  [[nodiscard]] const std::string& undecided() const { return undecided_; }
  // A cancel request was accepted while it could still lead to a running source.
  [[nodiscard]] bool must_abort() const { return must_abort_; }
  std::vector<plan::SourcePhase> crashes;  // phases in which it died
  std::function<void()> step_crashed;  // it dies after a step, alone or with its node: somebody restarts it

 private:
  using Kind = plan::SourceActionKind;

  void go_on(const NodeJournal::Found& found);
  void event(const plan::SourceEvent& event);
  void apply(plan::SourceStep step);
  void execute(const plan::SourceAction& action);
  void execute_on_tree(const plan::SourceAction& action, uint64_t token);
  void dump(uint64_t token, bool fails);
  void final_scan(bool fails);
  void make_standby(uint64_t token, bool fails);
  void resume(uint64_t token, bool fails);
  // Runs in this life only, and only while the action is under way under this token.
  void later(Kind kind, uint64_t token, Nanoseconds delay, std::function<void()> run);
  void end_later(Kind kind, uint64_t token, Nanoseconds delay, bool fails, std::function<void()> effect);
  void end(Kind kind, std::string error, plan::RoundStats stats = {});
  void cut_short(Kind kind, const char* why);
  void free_from_dump();
  void record(const plan::SourceAction& action, uint64_t token, bool fails);
  void note_that_it_runs();
  void note_settled();
  void close(uint64_t token);
  void forget_journal();
  void save_later();

  Bench& bench_;
  World& world_;
  Network& network_;
  bool up_ = true;
  uint64_t life_ = 0;
  uint64_t ticks_ = 0;
  std::optional<plan::SourceState> state_;
  UnderWay<Kind> under_way_;
  NodeJournal journal_;
  std::string undecided_;
  Network::Id connection_ = 0;
  bool must_abort_ = false;
  bool told_ = false;  // of the outcome, by this process
};

}  // namespace mose::sim
