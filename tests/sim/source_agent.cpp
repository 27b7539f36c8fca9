// SPDX-License-Identifier: MIT
#include "sim/source_agent.h"

#include <algorithm>

#include "agent/recovery.h"
#include "plan/strategy.h"

namespace mose::sim {

using plan::SourceAction;
using plan::SourceStep;

namespace {

constexpr const char* kNotedRuns = "runs_there";

}  // namespace

void SourceAgent::migrate(const MigrationOptions& options) {
  const Registry& registry = world_.source_registry;
  if (!up_ || state_ || registry.busy || registry.history || world_.source != Tree::running) return;
  bench_.note(Side::source, "the operator asks for a migration");
  world_.memory_first = plan::memory_first(options.strategy);
  if (!bench_.save(true, world_.source_registry.busy_on_disk)) return;  // refused
  world_.source_registry.busy = true;
  apply(plan::start_source(options, bench_.local(Side::source)));
}

void SourceAgent::cancel() {
  if (!up_ || !state_) return;
  bench_.note(Side::source, "the operator cancels");
  must_abort_ = must_abort_ || plan::before_commit(*state_);
  event(plan::CancelRequested{});
}

void SourceAgent::decide(const plan::DestinationGone& gone) {
  if (!up_ || !state_) return;
  bench_.note(Side::source, gone.choice == plan::GoneChoice::resume ? "the operator resumes the workload" : "the operator gives it up");
  event(gone);
}

void SourceAgent::recover() {
  if (!up_) return;
  under_way_.clear();
  ++life_;
  state_.reset();
  told_ = false;
  undecided_.clear();
  bench_.when_awake(Side::source, [this, life = life_, found = journal_.open()] {
    if (up_ && life == life_) go_on(found);
  });
}

void SourceAgent::go_on(const NodeJournal::Found& found) {
  Registry& registry = world_.source_registry;
  const bool alive = world_.source != Tree::killed && world_.source != Tree::lost;
  if (!found.problem.empty()) {
    undecided_ = found.problem;
    bench_.note(Side::source, "cannot decide: " + undecided_);
    return;
  }
  if (!found.contents) {
    registry.busy = false;  // nothing has happened to it
    return save_later();
  }
  bench_.note(Side::source, "recovers");
  const auto& records = found.contents->records;
  if (auto ended = agent::ended_source(records, registry.busy, alive, registry.history)) {
    bench_.note(Side::source, "finds a migration that has ended: " + ended->reason);
    if (registry.history.value_or(Outcome::unknown) == Outcome::unknown) registry.history = ended->outcome;
    registry.busy = false;  // away by it, or nobody's any more
    return forget_journal();
  }
  if (records.empty()) {
    registry.busy = false;
    return forget_journal();
  }
  if (!registry.busy) {
    undecided_ = "its workload is not here";
    return;
  }
  const bool has_run_there = found.contents->notes.contains(kNotedRuns) && !bench_.hooks.forget_note;
  apply(plan::recover_source(records, has_run_there, bench_.local(Side::source)));
}

void SourceAgent::crash() {
  if (!up_) return;
  bench_.note(Side::source, std::string("CRASH in phase ") + (state_ ? plan::to_string(state_->phase) : "idle"));
  up_ = false;
  ++life_;
  ++ticks_;
  if (state_) crashes.push_back(state_->phase);
  journal_.crash();
  world_.source_disk.lose_agent();
  bench_.clock(Side::source).asleep_until = {};
  under_way_.clear();
  state_.reset();
  free_from_dump();
  world_.source_slowed = false;  // its orders have ended
  network_.lose(connection_);
  connection_ = 0;
}

void SourceAgent::restart() {
  if (up_) return;
  up_ = true;
  world_.source_registry.busy = world_.source_registry.busy_on_disk;
  bench_.note(Side::source, "starts");
  recover();
}

// CRIU dies with its agent, or is killed: a tree that only ptrace had stopped runs, its sockets in repair mode.
void SourceAgent::free_from_dump() {
  world_.source_dumper = false;
  if (world_.source != Tree::held) return;
  world_.source = Tree::running;
  world_.source_repair = true;
}

void SourceAgent::receive(Network::Id id, plan::Message message, const std::string& reason) {
  if (!up_ || !state_) return;
  // A real agent closes the old connection; a late word from it must do no harm either.
  if (id != connection_ && bench_.random.coin()) return;
  bench_.note(Side::source, std::string("hears ") + plan::to_string(message) + " on connection " + std::to_string(id));
  const bool known = state_->has_run_there;
  event(plan::MessageReceived{message, reason});
  if (up_ && state_ && message == plan::Message::committed && !known && state_->has_run_there) note_that_it_runs();
}

// Beside what the planner does of it: once it is on the disk no agent of this node may let the stopped tree run.
void SourceAgent::note_that_it_runs() {
  if (!bench_.hooks.operator_decides()) return;
  const NodeJournal::Written written = journal_.note({{kNotedRuns, "yes"}});
  if (!written.error.empty()) return;
  bench_.loop.after(written.takes, [this, life = life_] {
    if (up_ && life == life_) world_.noted_that_it_ran = true;
  });
}

void SourceAgent::lost(Network::Id id) {
  if (!up_ || !state_ || id != connection_) return;
  bench_.note(Side::source, "loses connection " + std::to_string(id));
  connection_ = 0;
  for (Kind kind : {Kind::send, Kind::precopy_round, Kind::make_standby, Kind::final_scan}) cut_short(kind, "connection lost");
  event(plan::ConnectionLost{"reset"});
}

plan::Verdict SourceAgent::verdict() const {
  if (state_) return plan::verdict(*state_);
  const auto& history = world_.source_registry.history;
  const bool stayed = history == Outcome::failed || history == Outcome::cancelled || history == Outcome::refused ||
                      history == Outcome::lost;
  return stayed ? plan::Verdict::abort : plan::Verdict::undecided;
}

void SourceAgent::event(const plan::SourceEvent& event) {
  SourceStep step = plan::step(*state_, event, bench_.local(Side::source));
  if (bench_.hooks.source) bench_.hooks.source(*state_, event, step);
  apply(std::move(step));
}

void SourceAgent::apply(SourceStep step) {
  if (bench_.tracing && (!state_ || state_->phase != step.state.phase)) {
    bench_.note(Side::source, std::string("-> ") + plan::to_string(step.state.phase) +
                                  (step.state.reason.empty() ? "" : " (" + step.state.reason + ")"));
  }
  state_ = std::move(step.state);
  uint64_t tick = ++ticks_;
  if (state_->deadline) {
    bench_.at_local(Side::source, *state_->deadline, [this, tick] { return up_ && tick == ticks_; },
                    [this] { event(plan::Tick{}); });
  }
  note_settled();
  for (const SourceAction& action : step.actions) execute(action);
  if (state_->phase == plan::SourcePhase::aborting && plan::settled(*state_) &&
      world_.source != Tree::lost && (world_.source != Tree::running || world_.source_slowed)) {
    bench_.violate("the operator is told of an abort while the source does not run at full speed");
  }
  if (bench_.faulty() && !step.actions.empty() && bench_.random.chance(bench_.faults.step_crash)) step_crashed();
}

void SourceAgent::later(Kind kind, uint64_t token, Nanoseconds delay, std::function<void()> run) {
  bench_.loop.after(delay, [this, kind, token, life = life_, run = std::move(run)] {
    bench_.when_awake(Side::source, [this, kind, token, life, run] {
      if (up_ && life == life_ && under_way_.valid(kind, token)) run();
    });
  });
}

void SourceAgent::end(Kind kind, std::string error, plan::RoundStats stats) {
  under_way_.end(kind);
  bench_.note(Side::source, std::string(plan::to_string(kind)) + (error.empty() ? " done" : " FAILED: " + error));
  event(plan::SourceActionDone{kind, std::move(error), stats});
}

void SourceAgent::end_later(Kind kind, uint64_t token, Nanoseconds delay, bool fails, std::function<void()> effect) {
  later(kind, token, delay, [this, kind, fails, effect = std::move(effect)] {
    effect();
    end(kind, fails ? "injected" : "");
  });
}

void SourceAgent::cut_short(Kind kind, const char* why) {
  if (!under_way_.has(kind)) return;
  uint64_t token = under_way_.supersede(kind);
  later(kind, token, bench_.random.between(0ms, 3ms), [this, kind, why] { end(kind, why); });
}

void SourceAgent::execute(const SourceAction& action) {
  uint64_t token = under_way_.begin(action.kind);
  if (token == 0) return bench_.violate(std::string("two actions at once: ") + plan::to_string(action.kind));
  bool fails = bench_.fails(Side::source, action.kind);
  switch (action.kind) {
    case Kind::preflight:
      return end_later(action.kind, token, bench_.duration(10ms), fails, [] {});
    case Kind::record:
      return record(action, token, fails);
    case Kind::connect:
      return later(action.kind, token, bench_.duration(5ms), [this, fails] {
        network_.lose(connection_);
        connection_ = fails || !network_.up || !bench_.reachable(Side::destination) ? 0 : network_.connect();
        end(Kind::connect, connection_ != 0 ? "" : "unreachable");
      });
    case Kind::send: {
      bool at_once = bench_.random.coin();
      if (at_once && !fails) network_.send(connection_, Side::source, action.message, action.reason);
      return later(action.kind, token, bench_.duration(1ms), [this, at_once, fails, action] {
        bool failed = fails || !network_.alive(connection_);
        if (!at_once && !failed) network_.send(connection_, Side::source, action.message, action.reason);
        if (fails) network_.lose(connection_);
        end(Kind::send, failed ? "broken pipe" : "");
      });
    }
    case Kind::precopy_round:
      world_.source_slowed = action.throttle_percent != 0;
      return later(action.kind, token, bench_.duration(50ms), [this, fails] {
        plan::RoundStats stats{.pages_sent = bench_.random.below(60000)};
        stats.link_bps = bench_.random.coin() ? 0 : 10'000'000 + bench_.random.below(1'000'000'000);
        stats.unprepared = bench_.random.coin();
        end(Kind::precopy_round, fails ? "injected" : "", stats);
      });
    case Kind::final_scan:
      // As long as there are written pages; the dump and the restore go on beside it.
      return later(action.kind, token, bench_.duration(bench_.random.chance(0.2) ? 100ms : 10ms),
                   [this, fails] { final_scan(fails); });
    case Kind::redirect:
      return end_later(action.kind, token, bench_.duration(2ms), fails, [] {});
    case Kind::wait_retry:
      return end_later(action.kind, token, std::min<Nanoseconds>(100ms * (1 << std::min(action.round, 6u)), 5s), false,
                       [] {});
    case Kind::close:
      free_from_dump();
      network_.lose(connection_);
      return close(token);
    default:
      return execute_on_tree(action, token);
  }
}

// As long as the registry does not say where the workload is, the journal does.
void SourceAgent::close(uint64_t token) {
  if (!plan::nothing_left(*state_)) return end_later(Kind::close, token, 1ms, false, [] {});
  if (!bench_.save(world_.source_registry.busy, world_.source_registry.busy_on_disk)) {
    return later(Kind::close, token, 2s, [this, token] { close(token); });
  }
  journal_.remove();
  end_later(Kind::close, token, 1ms, false, [] {});
}

void SourceAgent::forget_journal() {
  if (bench_.save(world_.source_registry.busy, world_.source_registry.busy_on_disk)) return journal_.remove();
  bench_.loop.after(2s, [this, life = life_] {
    if (up_ && life == life_ && !state_) forget_journal();
  });
}

void SourceAgent::save_later() {
  if (bench_.save(world_.source_registry.busy, world_.source_registry.busy_on_disk)) return;
  bench_.loop.after(2s, [this, life = life_] {
    if (up_ && life == life_ && !state_) save_later();
  });
}

void SourceAgent::record(const SourceAction& action, uint64_t token, bool fails) {
  NodeJournal::Written written = journal_.record(action.record, fails);
  later(Kind::record, token, written.takes, [this, error = written.error] { end(Kind::record, error); });
}

// What the operator is told, and what whoever asks later hears.
void SourceAgent::note_settled() {
  Registry& registry = world_.source_registry;
  if (told_ || !plan::settled(*state_)) return;
  told_ = true;
  registry.history = state_->outcome;
  const bool undone = state_->outcome == Outcome::unknown ||
                      (state_->outcome == Outcome::failed_after_commit && !plan::nothing_left(*state_));
  if (undone) return;
  registry.busy = false;
  (void)bench_.save(false, registry.busy_on_disk);
}

// Pages leave for the destination from here on; what of them is told may come late, or twice.
void SourceAgent::final_scan(bool fails) {
  const auto most = plan::pages_left_max(*state_);
  if (!fails) {
    world_.map_out = world_.map_out || world_.prepared;
    world_.pages_left = bench_.random.below(60000);
    world_.pages_left_max = most.value_or(UINT64_MAX);
  }
  under_way_.end(Kind::final_scan);
  bench_.note(Side::source, fails ? "final_scan FAILED" : "final_scan done");
  if (most && !fails) {
    bench_.loop.after(bench_.duration(200ms), [this, most = *most, life = life_] {
      if (!up_ || life != life_ || !state_ || world_.source == Tree::running || world_.source == Tree::killed) return;
      world_.pages_left = std::min(world_.pages_left, most);
      event(plan::PagesLeft{world_.pages_left});
    });
  }
  event(plan::SourceActionDone{
      .kind = Kind::final_scan, .error = fails ? "injected" : "", .final = {.pages_left = world_.pages_left}});
}

void SourceAgent::execute_on_tree(const SourceAction& action, uint64_t token) {
  bool fails = bench_.fails(Side::source, action.kind);
  bool coin = bench_.random.coin();
  switch (action.kind) {
    case Kind::arm_dump:
      return end_later(action.kind, token, journal_.time_sync() + bench_.duration(5ms), fails,
                       [this, fails] { world_.source_dumper = !fails; });
    case Kind::make_standby:
      return make_standby(token, fails);
    case Kind::quiesce:
      world_.source_slowed = false;
      return end_later(action.kind, token, bench_.duration(2ms), fails, [] {});
    case Kind::freeze:
      if (!world_.source_dumper) bench_.violate("frozen before the dump process is armed");
      return end_later(action.kind, token, bench_.duration(3ms), fails, [this, fails, coin] {
        world_.source_was_stopped = true;
        if (!fails || coin) world_.source = Tree::frozen;
      });
    case Kind::dump:
      return dump(token, fails);
    case Kind::finish_dump:
      return end_later(action.kind, token, bench_.duration(3ms), fails, [this] { world_.source_dumper = false; });
    case Kind::resume_source:
      return resume(token, fails);
    case Kind::kill_source:
      return end_later(action.kind, token, bench_.duration(3ms), fails, [this, fails, coin] {
        if ((!fails || coin) && world_.source != Tree::lost) world_.source = Tree::killed;
      });
    default:
      return;
  }
}

// Dumped and, but for a failure, resumed; then the destination takes its time.
void SourceAgent::make_standby(uint64_t token, bool fails) {
  Nanoseconds dumped = bench_.duration(20ms);
  Nanoseconds resumed = dumped + bench_.duration(5ms);
  later(Kind::make_standby, token, bench_.random.between(0ms, 1ms), [this] {
    world_.source_dumper = true;
    world_.source_was_stopped = true;
    world_.source = Tree::frozen;
  });
  later(Kind::make_standby, token, dumped, [this] {
    world_.source_egress = false;
    world_.source_repair = true;
  });
  later(Kind::make_standby, token, resumed, [this, fails] {
    free_from_dump();
    if (fails) return end(Kind::make_standby, "injected");
    world_.source_egress = true;
    world_.source_repair = false;
    world_.source = Tree::running;
  });
  end_later(Kind::make_standby, token, resumed + bench_.duration(100ms), false, [] {});
}

// CRIU thaws the cgroup while it dumps; the agent writes freeze=1 again at post-dump and shuts egress.
void SourceAgent::dump(uint64_t token, bool fails) {
  if (world_.source != Tree::frozen || !world_.source_dumper)
    bench_.violate("a dump of a tree that is not frozen and armed");
  Nanoseconds attach = bench_.duration(2ms);
  Nanoseconds post_dump = attach + bench_.duration(20ms);
  bool early = bench_.random.coin();
  later(Kind::dump, token, attach, [this] { world_.source = Tree::held; });
  later(Kind::dump, token, post_dump, [this, fails, early] {
    if (fails && early) {
      free_from_dump();
      return end(Kind::dump, "injected before post-dump");
    }
    world_.source = Tree::frozen;
    world_.source_egress = false;
    world_.source_repair = true;
  });
  end_later(Kind::dump, token, post_dump + bench_.random.between(0ms, 1ms), fails, [] {});
}

void SourceAgent::resume(uint64_t token, bool fails) {
  for (Kind kind : {Kind::freeze, Kind::kill_source}) {
    if (under_way_.has(kind)) bench_.violate(std::string("resume_source beside ") + plan::to_string(kind));
  }
  const bool decides = state_->recording == plan::Record::commit || state_->commit_doubtful;
  if (under_way_.has(Kind::record) && decides) bench_.violate("resume_source before it is known whether the commit is on the disk");
  if (world_.source == Tree::killed) bench_.violate("resume_source of a killed tree");
  for (Kind kind : {Kind::make_standby, Kind::arm_dump, Kind::quiesce, Kind::dump, Kind::finish_dump}) cut_short(kind, "ended by resume_source");
  world_.source_slowed = false;
  free_from_dump();
  bool half = bench_.random.coin();
  end_later(Kind::resume_source, token, bench_.duration(3ms), fails, [this, fails, half] {
    if (world_.source == Tree::lost || (fails && half)) return;
    world_.source_egress = true;
    if (fails) return;
    world_.source_repair = false;
    world_.source = Tree::running;
  });
}

}  // namespace mose::sim
