// SPDX-License-Identifier: MIT
#include "sim/destination_agent.h"

#include <algorithm>

#include "agent/recovery.h"

namespace mose::sim {

using plan::DestinationAction;
using plan::DestinationStep;
using plan::Message;

void DestinationAgent::recover() {
  if (!up_) return;
  under_way_.clear();
  ++life_;
  state_.reset();
  undecided_.clear();
  bench_.when_awake(Side::destination, [this, life = life_, found = journal_.open()] {
    if (up_ && life == life_) go_on(found);
  });
}

void DestinationAgent::go_on(const NodeJournal::Found& found) {
  if (!found.problem.empty()) {
    undecided_ = found.problem;
    bench_.note(Side::destination, "cannot decide: " + undecided_);
    return;
  }
  if (!found.contents) {
    if (world_.destination_registry.busy_on_disk && world_.destination == Tree::running)
      bench_.violate("the record of a workload that runs there is forgotten");
    world_.destination_registry.busy = world_.destination_registry.busy_on_disk = false;
    return;
  }
  bench_.note(Side::destination, "recovers");
  const auto& records = found.contents->records;
  auto ended = agent::ended_destination(records);
  Registry& registry = world_.destination_registry;
  const bool known = registry.history.value_or(Outcome::unknown) != Outcome::unknown;
  if (ended && !known && !bench_.hooks.forget_history) registry.history = ended->outcome;
  if (ended || records.empty()) return journal_.remove();
  apply(plan::recover_destination(records, bench_.local(Side::destination)));
  auto has = [&](plan::Record record) { return plan::contains(records, record); };
  const bool gone = world_.destination == Tree::absent;
  // Nobody can tell whether the agent that has written the verdict down has thawed the tree as well.
  world_.given_up = world_.given_up || (gone && plan::committed(records));
  if (!up_) return;
  if (gone && has(plan::Record::ready)) event(plan::TreeEnded{"the machine was started again"});
  if (up_ && world_.pages_complete) pages_complete();
}

void DestinationAgent::crash() {
  if (!up_) return;
  bench_.note(Side::destination, std::string("CRASH in phase ") + (state_ ? plan::to_string(state_->phase) : "idle"));
  up_ = false;
  ++life_;
  ++ticks_;
  if (state_) crashes.push_back(state_->phase);
  journal_.crash();
  world_.destination_disk.lose_agent();
  bench_.clock(Side::destination).asleep_until = {};
  if (under_way_.has(Kind::restore)) lose_restore();
  under_way_.clear();
  state_.reset();
  connection_ = 0;
  network_.lose_all();
}

void DestinationAgent::restart() {
  if (up_) return;
  up_ = true;
  world_.destination_registry.busy = world_.destination_registry.busy_on_disk;
  bench_.note(Side::destination, "starts");
  recover();
}

// CRIU dies in the middle of a restore. Its half-made tree dies with it, or is let go: then the pager, which lives on,
// has frozen the cgroup before the first instruction of the workload.
void DestinationAgent::lose_restore() {
  if (world_.destination != Tree::held) return;
  if (bench_.random.coin()) {
    world_.destination = Tree::absent;
  } else {
    world_.destination = bench_.hooks.pager_without_fence ? Tree::running : Tree::frozen;
  }
}

void DestinationAgent::receive(Network::Id id, Message message, const std::string& reason) {
  if (!up_) return;
  if (state_ && id < connection_) return;  // a newer connection has replaced this one
  bench_.note(Side::destination,
              std::string("hears ") + plan::to_string(message) + " on connection " + std::to_string(id));
  if (state_) {
    connection_ = id;
    if (message == Message::commit) look_at_tree();
    if (!up_ || !state_) return;
    return event(plan::MessageReceived{message, reason});
  }
  if (message == Message::prepare) {
    connection_ = id;
    world_.destination_registry.busy = true;
    return apply(plan::start_destination(bench_.local(Side::destination)));
  }
  answer_stray(id, message);
}

// A migration that has ended, was never here, or of which nobody can read the journal.
void DestinationAgent::answer_stray(Network::Id id, Message message) {
  auto answer = [&](Message with, const std::string& why = {}) { network_.send(id, Side::destination, with, why); };
  if (message == Message::abort) return undecided_.empty() ? answer(Message::aborted) : answer(Message::failed, undecided_);
  if (message != Message::commit) return;
  const auto& history = world_.destination_registry.history;
  if (undecided_.empty() && history == Outcome::failed) return answer(Message::aborted);
  if (undecided_.empty() && !history && bench_.hooks.forgotten_is_aborted) return answer(Message::aborted);
  if (!undecided_.empty() || !(history == Outcome::complete || history == Outcome::lost)) {
    return answer(Message::failed, "no such migration here");
  }
  answer(Message::committed);
  answer(Message::complete, history == Outcome::lost ? "the workload ended before its memory was complete" : "");
}

void DestinationAgent::stop() {
  if (!up_ || !state_) return;
  bench_.note(Side::destination, "the operator stops the workload");
  world_.destination = Tree::absent;
  world_.destination_egress = false;
  world_.given_up = true;
  event(plan::TreeEnded{"workload redis was stopped"});
}

void DestinationAgent::forget(bool thrown_away) {
  crash();
  bench_.note(Side::destination, thrown_away ? "what has run there is THROWN AWAY as what has not" : "the state directory is LOST");
  world_.destination_disk.lose_files();
  world_.destination_registry = {};
  if (!thrown_away) return;
  world_.destination = Tree::absent;
  world_.destination_egress = world_.prepared = false;
  world_.given_up = true;
  world_.destination_registry.history = Outcome::failed;
}

bool DestinationAgent::has_nothing() const {
  const auto& history = world_.destination_registry.history;
  return bench_.hooks.destination_forgets && up_ && !state_ && undecided_.empty() && (!history || history == Outcome::failed);
}

void DestinationAgent::clean_up() {
  bench_.note(Side::destination, "the operator cleans up");
  world_.given_up = world_.given_up || world_.destination == Tree::running;
  world_.destination = Tree::absent;
  world_.destination_egress = world_.prepared = world_.map_out = world_.pages_complete = false;
}

// Into the history; a while later the journal goes, and with it what still answers.
void DestinationAgent::note_end() {
  if (state_->phase != plan::DestinationPhase::done) return;
  if (!bench_.hooks.forget_history) world_.destination_registry.history = state_->outcome;
  bench_.loop.after(200ms, [this, life = life_] {
    if (!up_ || life != life_ || !state_ || !plan::nothing_left(*state_)) return;
    journal_.remove();
    world_.destination_registry.busy = false;
    state_.reset();
    under_way_.clear();
    network_.lose(connection_);
    bench_.note(Side::destination, "has forgotten the migration");
  });
}

void DestinationAgent::lost(Network::Id id) {
  if (!up_ || !state_ || id != connection_) return;
  bench_.note(Side::destination, "loses connection " + std::to_string(id));
  event(plan::ConnectionLost{"reset"});
}

void DestinationAgent::pages_complete() {
  if (up_ && state_) event(plan::PagesComplete{});
}

void DestinationAgent::event(const plan::DestinationEvent& event) {
  DestinationStep step = plan::step(*state_, event, bench_.local(Side::destination));
  if (bench_.hooks.destination) bench_.hooks.destination(*state_, event, step);
  apply(std::move(step));
}

void DestinationAgent::apply(DestinationStep step) {
  if (bench_.tracing && (!state_ || state_->phase != step.state.phase)) {
    bench_.note(Side::destination, std::string("-> ") + plan::to_string(step.state.phase) +
                                       (step.state.reason.empty() ? "" : " (" + step.state.reason + ")"));
  }
  const bool ended = state_ && state_->phase == plan::DestinationPhase::done;
  state_ = std::move(step.state);
  if (!ended) note_end();
  uint64_t tick = ++ticks_;
  if (state_->deadline) {
    bench_.at_local(Side::destination, *state_->deadline, [this, tick] { return up_ && state_ && tick == ticks_; },
                    [this] { event(plan::Tick{}); });
  }
  for (const DestinationAction& action : step.actions) execute(action);
  if (bench_.faulty() && !step.actions.empty() && bench_.random.chance(bench_.faults.step_crash)) step_crashed();
}

void DestinationAgent::later(Kind kind, uint64_t token, Nanoseconds delay, std::function<void()> run) {
  bench_.loop.after(delay, [this, kind, token, life = life_, run = std::move(run)] {
    bench_.when_awake(Side::destination, [this, kind, token, life, run] {
      if (up_ && life == life_ && under_way_.valid(kind, token)) run();
    });
  });
}

void DestinationAgent::end(Kind kind, std::string error) {
  under_way_.end(kind);
  if (!state_) return;  // forgotten meanwhile
  bench_.note(Side::destination, std::string(plan::to_string(kind)) + (error.empty() ? " done" : " FAILED: " + error));
  event(plan::DestinationActionDone{kind, std::move(error)});
}

void DestinationAgent::end_later(Kind kind, uint64_t token, Nanoseconds delay, bool fails,
                                 std::function<void()> effect) {
  later(kind, token, delay, [this, kind, fails, effect = std::move(effect)] {
    effect();
    end(kind, fails ? "injected" : "");
  });
}

void DestinationAgent::execute(const DestinationAction& action) {
  uint64_t token = under_way_.begin(action.kind);
  if (token == 0) return bench_.violate(std::string("two actions at once: ") + plan::to_string(action.kind));
  bool fails = bench_.fails(Side::destination, action.kind);
  bool coin = bench_.random.coin();
  switch (action.kind) {
    case Kind::record: {
      NodeJournal::Written written = journal_.record(action.record, fails);
      return later(action.kind, token, written.takes, [this, error = written.error] { end(Kind::record, error); });
    }
    case Kind::send: {
      bool at_once = bench_.random.coin();
      if (at_once) network_.send(connection_, Side::destination, action.message, action.reason);
      return end_later(action.kind, token, bench_.duration(1ms), false, [this, at_once, action] {
        if (!at_once) network_.send(connection_, Side::destination, action.message, action.reason);
      });
    }
    case Kind::query_verdict:
      return later(action.kind, token, bench_.duration(5ms), [this, fails] {
        plan::Verdict verdict = fails ? plan::Verdict::undecided : ask_source();
        bench_.note(Side::destination, std::string("the source answers ") + plan::to_string(verdict));
        uint64_t life = life_;
        if (verdict == plan::Verdict::commit) look_at_tree();
        if (up_ && life == life_ && verdict == plan::Verdict::commit) event(plan::MessageReceived{Message::commit, {}});
        if (verdict == plan::Verdict::abort) event(plan::MessageReceived{Message::abort, "asked"});
        if (up_ && life == life_) end(Kind::query_verdict, fails ? "injected" : "");
      });
    case Kind::finish:
      return later(action.kind, token, bench_.duration(2ms), [this, fails, coin] {
        if (!world_.complete_once) bench_.violate("the pager is closed before it has every page");
        if (!fails || coin) world_.prepared = false;
        Registry& registry = world_.destination_registry;
        const bool registered = !fails && bench_.save(false, registry.busy_on_disk);
        if (registered) registry.busy = false;
        end(Kind::finish, registered ? "" : "injected");
      });
    default:
      return execute_on_tree(action, token);
  }
}

void DestinationAgent::execute_on_tree(const DestinationAction& action, uint64_t token) {
  bool fails = bench_.fails(Side::destination, action.kind);
  bool coin = bench_.random.coin();
  switch (action.kind) {
    case Kind::prepare:
      if (!bench_.save(true, world_.destination_registry.busy_on_disk)) return end_later(action.kind, token, 1ms, true, [] {});
      world_.prepared = world_.prepared || coin;
      return end_later(action.kind, token, bench_.duration(20ms), fails,
                       [this, fails] { world_.prepared = world_.prepared || !fails; });
    case Kind::restore:
      return restore(token, fails);
    case Kind::activate:
      return activate(token, fails, coin);
    case Kind::discard:
      for (Kind kind : {Kind::prepare, Kind::activate}) {
        if (under_way_.has(kind)) bench_.violate(std::string("discard beside ") + plan::to_string(kind));
      }
      if (under_way_.has(Kind::restore)) {
        lose_restore();
        uint64_t restore_token = under_way_.supersede(Kind::restore);
        later(Kind::restore, restore_token, bench_.duration(3ms), [this] { end(Kind::restore, "ended by discard"); });
      }
      return end_later(action.kind, token, bench_.duration(5ms), fails, [this, fails, coin] {
        if (fails && coin) return;
        world_.destination = Tree::absent;
        world_.destination_egress = false;
        if (fails) return;
        world_.destination_registry.busy_on_disk = false;  // the end of a name asks for no room
        world_.prepared = false;
        world_.map_out = world_.pages_complete = false;
      });
    default:
      return;
  }
}

void DestinationAgent::activate(uint64_t token, bool fails, bool coin) {
  const bool thawed = !fails || coin;
  later(Kind::activate, token, bench_.random.between(0ms, 1ms), [this, thawed] {
    if (world_.destination == Tree::absent && !bench_.hooks.blind_to_the_tree) {
      under_way_.end(Kind::activate);
      bench_.note(Side::destination, "there is nothing to thaw");
      return event(plan::DestinationActionDone{.kind = Kind::activate, .error = "the tree has ended", .tree_gone = true});
    }
    if (!thawed || world_.destination == Tree::absent) return;
    world_.destination = Tree::running;
    world_.destination_egress = true;
  });
  later(Kind::activate, token, 1ms + bench_.duration(1ms), [this, fails] {
    under_way_.end(Kind::activate);
    bench_.note(Side::destination, fails ? "activate FAILED: injected" : "activate done");
    event(plan::DestinationActionDone{.kind = Kind::activate,
                                      .error = fails ? "injected" : "",
                                      .not_thawed = fails && world_.destination != Tree::running});
  });
}

// Its agent may hear of it at once, or finds it when it looks.
void DestinationAgent::kill_fenced() {
  if (world_.destination != Tree::frozen || world_.has_run || !bench_.faulty()) return;
  bench_.note(Side::destination, "the fenced tree is KILLED");
  world_.destination = Tree::absent;
  ++world_.killed_fenced;
  if (bench_.deaths.coin()) return;
  bench_.loop.after(bench_.deaths.between(0ms, 2ms), [this] { bench_.when_awake(Side::destination, [this] { look_at_tree(); }); });
}

void DestinationAgent::look_at_tree() {
  if (!up_ || !state_ || under_way_.has(Kind::activate) || under_way_.has(Kind::restore) || bench_.hooks.blind_to_the_tree) return;
  if (state_->phase < plan::DestinationPhase::restoring || state_->phase > plan::DestinationPhase::running) return;
  if (world_.destination == Tree::absent) event(plan::TreeEnded{"the tree has ended"});
}

// The tree exists under CRIU's ptrace, the pager freezes its cgroup, CRIU lets go and exits.
void DestinationAgent::restore(uint64_t token, bool fails) {
  if (!world_.prepared) bench_.violate("a restore without namespaces and pager");
  Nanoseconds made = bench_.duration(15ms);
  Nanoseconds fence = made + bench_.duration(15ms);
  later(Kind::restore, token, made, [this] { world_.destination = Tree::held; });
  later(Kind::restore, token, fence, [this, fails] {
    if (!fails) {
      world_.destination = Tree::frozen;
      const bool killed = bench_.deaths.chance(bench_.faults.kill_fenced);
      if (killed) bench_.loop.after(bench_.deaths.between(5ms, 60ms), [this] { kill_fenced(); });
      return;
    }
    lose_restore();
    end(Kind::restore, "injected before the fence");
  });
  Nanoseconds released = fence + bench_.duration(3ms);
  if (!world_.memory_first || fails) return end_later(Kind::restore, token, released, fails, [] {});
  later(Kind::restore, token, released, [this, token] { await_memory(token); });
}

// Everything has to be in before the tree is called ready.
void DestinationAgent::await_memory(uint64_t token) {
  if (world_.pages_complete) return end(Kind::restore, "");
  later(Kind::restore, token, 1ms, [this, token] { await_memory(token); });
}

}  // namespace mose::sim
