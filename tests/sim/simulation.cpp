// SPDX-License-Identifier: MIT
#include "sim/simulation.h"

#include <algorithm>

namespace mose::sim {
namespace {

constexpr Nanoseconds kOperatorLooks = 15min;  // longer than every deadline of the planner
constexpr unsigned kOperatorVisits = 4;
constexpr uint64_t kEventsMax = 200'000;

class Simulation {
 public:
  Simulation(uint64_t seed, const Hooks& hooks, bool tracing)
      : bench_(seed), network_(bench_), source_(bench_, world_, network_), destination_(bench_, world_, network_) {
    bench_.hooks = hooks;
    bench_.tracing = tracing;
    bench_.reachable = [this](Side side) { return side == Side::source ? source_.up() : destination_.up(); };
    network_.attach(Side::source, {[this](auto id, auto m, auto& why) { source_.receive(id, m, why); },
                                   [this](auto id) { source_.lost(id); }});
    network_.attach(Side::destination, {[this](auto id, auto m, auto& why) { destination_.receive(id, m, why); },
                                        [this](auto id) { destination_.lost(id); }});
    destination_.ask_source = [this] {
      return network_.up && source_.up() ? source_.verdict() : plan::Verdict::undecided;
    };
    source_.step_crashed = [this] { restart_later(Side::source); };
    destination_.step_crashed = [this] { restart_later(Side::destination); };
    draw_faults();
  }

  Verdicts run() {
    bench_.loop.after(0s, [this] { source_.migrate(draw_options()); });
    for (unsigned i = 0; i < bench_.faults.cancels; ++i) {
      bench_.loop.after(bench_.random.between(0ms, 600ms), [this] { source_.cancel(); });
    }
    for (Side side : {Side::source, Side::destination}) next_crash(side);
    next_loss();
    bench_.loop.after(bench_.faults.end - bench_.loop.now(), [this] { heal(); });
    poll_pager();
    play();
    for (unsigned visit = 0; visit < kOperatorVisits && bench_.violation.empty(); ++visit) {
      if (!operator_recovers()) break;
      play();
    }
    if (bench_.violation.empty()) check_rest();
    result_.violation = bench_.violation;
    result_.trace = std::move(bench_.trace);
    result_.source_crashes = source_.crashes;
    result_.destination_crashes = destination_.crashes;
    result_.moved = world_.destination == Tree::running;
    return std::move(result_);
  }

 private:
  void draw_faults();
  MigrationOptions draw_options();
  void next_crash(Side side);
  void crash(Side side);
  void restart_later(Side side);
  void next_loss();
  void heal();
  void poll_pager();
  void play();
  bool operator_recovers();
  void check_rest();

  Bench bench_;
  World world_;
  Network network_;
  SourceAgent source_;
  DestinationAgent destination_;
  Verdicts result_;
  bool faultless_ = false;
};

void Simulation::draw_faults() {
  Random& random = bench_.random;
  Faults& faults = bench_.faults;
  faults.end = bench_.loop.now() + random.between(100ms, random.coin() ? 2s : 120s);
  faultless_ = random.chance(0.03);
  if (faultless_) return;
  constexpr double kFail[] = {0, 0, 0.01, 0.05, 0.3};
  constexpr double kSlow[] = {0, 0, 0, 0.01, 0.05};
  constexpr double kStepCrash[] = {0, 0, 0.01, 0.03, 0.1};
  faults.fail = kFail[random.below(5)];
  faults.slow = kSlow[random.below(5)];
  faults.step_crash = kStepCrash[random.below(5)];
  // 0 to 14 and 0 to 7 are the action kinds; the one that writes journals comes up more often.
  if (random.chance(0.2))
    faults.stubborn[0] =
        random.coin() ? static_cast<int>(plan::SourceActionKind::record) : static_cast<int>(random.below(15));
  if (random.chance(0.2))
    faults.stubborn[1] =
        random.coin() ? static_cast<int>(plan::DestinationActionKind::record) : static_cast<int>(random.below(8));
  faults.stubborn_from = bench_.loop.now() + random.between(0ms, 600ms);
  faults.duplicate = random.coin() ? 0.5 : 0;
  for (Nanoseconds& every : faults.crash_every) {
    if (random.chance(0.5)) every = random.between(30ms, random.coin() ? 500ms : 10s);
  }
  if (random.chance(0.5)) faults.loss_every = random.between(50ms, random.coin() ? 500ms : 10s);
  faults.outage = random.coin() ? 0.3 : 0;
  if (random.chance(0.25)) faults.cancels = 1 + static_cast<unsigned>(random.below(3));
}

MigrationOptions Simulation::draw_options() {
  constexpr Strategy kStrategies[] = {Strategy::automatic, Strategy::cold, Strategy::precopy, Strategy::postcopy,
                                      Strategy::hybrid};
  MigrationOptions options;
  options.strategy = kStrategies[bench_.random.below(5)];
  options.rounds_max = static_cast<unsigned>(bench_.random.below(5));
  options.standby = bench_.random.coin();
  options.auto_converge = bench_.random.coin();
  return options;
}

void Simulation::next_crash(Side side) {
  Nanoseconds every = bench_.faults.crash_every[static_cast<int>(side)];
  if (every == 0ns) return;
  bench_.loop.after(bench_.random.between(0ns, 2 * every), [this, side] {
    if (!bench_.faulty()) return;
    crash(side);
    next_crash(side);
  });
}

void Simulation::crash(Side side) {
  bool up = side == Side::source ? source_.up() : destination_.up();
  if (!up) return;
  if (side == Side::source) {
    source_.crash();
  } else {
    destination_.crash();
  }
  restart_later(side);
}

void Simulation::restart_later(Side side) {
  bench_.loop.after(bench_.random.between(10ms, bench_.random.chance(0.1) ? 60s : 500ms),
                    [this, side] { side == Side::source ? source_.restart() : destination_.restart(); });
}

void Simulation::next_loss() {
  if (bench_.faults.loss_every == 0ns) return;
  bench_.loop.after(bench_.random.between(0ns, 2 * bench_.faults.loss_every), [this] {
    if (!bench_.faulty()) return;
    network_.lose_all();
    if (network_.up && bench_.random.chance(bench_.faults.outage)) {
      network_.up = false;
      bench_.loop.after(bench_.random.between(10ms, bench_.random.coin() ? 1s : 60s), [this] { network_.up = true; });
    }
    next_loss();
  });
}

void Simulation::heal() {
  network_.up = true;
  source_.restart();
  destination_.restart();
}

// The pager lives apart from both agents; it needs the source's agent, which serves the frozen tree, and the network.
void Simulation::poll_pager() {
  bench_.loop.after(bench_.random.between(1ms, 20ms), [this] {
    bool can = world_.map_out && world_.prepared && network_.up && source_.up() && world_.source != Tree::killed;
    if (can && !world_.pages_complete && bench_.random.chance(0.3)) {
      world_.pages_complete = true;
      bench_.note(Side::destination, "the pager has every page");
      destination_.pages_complete();
    }
    bool over = !bench_.faulty() && source_.state() && source_.state()->phase == plan::SourcePhase::done;
    if (!over && !(source_.up() && !source_.state() && !bench_.faulty())) poll_pager();
  });
}

void Simulation::play() {
  Timestamp limit = std::max(bench_.faults.end, bench_.loop.now()) + kOperatorLooks;
  for (uint64_t events = 0; bench_.violation.empty() && bench_.loop.run_one(limit); ++events) {
    if (std::string broken = world_.check(); !broken.empty()) bench_.violate(broken + ": " + world_.describe());
    if (events > kEventsMax) bench_.violate("no rest within " + std::to_string(kEventsMax) + " events");
  }
}

// What a person does when told: `mose recover` on the node whose migration has ended with that advice.
bool Simulation::operator_recovers() {
  auto told = [this](const auto& state) {
    if (!state || std::string_view(plan::to_string(state->phase)) != "done" || nothing_left(*state)) return false;
    if (state->reason.find("mose recover") == std::string::npos) {
      bench_.violate("an end with something left that does not name the way back: " + state->reason);
    }
    return true;
  };
  bool source = told(source_.state());
  bool destination = told(destination_.state());
  if (source) source_.recover();
  if (destination) destination_.recover();
  if (source) poll_pager();
  result_.told_to_recover = result_.told_to_recover || source || destination;
  return source || destination;
}

void Simulation::check_rest() {
  auto violate = [this](const std::string& what) { bench_.violate(what + ": " + world_.describe()); };
  const auto& source = source_.state();
  const auto& destination = destination_.state();
  if (!bench_.loop.idle()) return violate("no rest in bounded time");
  if (source && source->phase != plan::SourcePhase::done) {
    return violate(std::string("deadlock: the source rests in phase ") + plan::to_string(source->phase));
  }
  if (destination && destination->phase != plan::DestinationPhase::done) {
    return violate(std::string("deadlock: the destination rests in phase ") + plan::to_string(destination->phase));
  }
  result_.known = source.has_value();
  result_.outcome = source ? source->outcome : Outcome::failed;
  bool commit = world_.journalled_verdict() == plan::Verdict::commit;
  if (commit) {
    if (world_.destination != Tree::running || !world_.destination_egress) return violate("committed, and lost");
    if (world_.source != Tree::killed || world_.prepared) return violate("committed, and something is left behind");
  } else {
    if (!world_.source_serves()) return violate("not committed, and the source does not serve");
    if (world_.destination != Tree::absent || world_.prepared)
      return violate("not committed, and something is left there");
  }
  bool says_moved = result_.outcome == Outcome::complete || result_.outcome == Outcome::failed_after_commit;
  if (source && says_moved != commit)
    return violate(std::string("the outcome lies: ") + std::string(mose::to_string(result_.outcome)));
  if (result_.outcome == Outcome::refused && world_.source_was_stopped)
    return violate("refused after the source was stopped");
  if (source_.must_abort() && commit) return violate("an accepted cancel was overruled");
  if (faultless_ && result_.outcome != Outcome::complete) return violate("nothing was broken, and it did not complete");
}

}  // namespace

Verdicts simulate(uint64_t seed, const Hooks& hooks, bool tracing) {
  return Simulation(seed, hooks, tracing).run();
}

}  // namespace mose::sim
