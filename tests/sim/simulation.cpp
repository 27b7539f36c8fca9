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
      : bench_(seed),
        world_(bench_),
        network_(bench_),
        source_(bench_, world_, network_),
        destination_(bench_, world_, network_) {
    bench_.hooks = hooks;
    bench_.tracing = tracing;
    bench_.reachable = [this](Side side) {
      return !bench_.asleep(side) && (side == Side::source ? source_.up() : destination_.up());
    };
    bench_.power_fails = [this](Side side) { lose_power(side); };
    attach(Side::source, source_);
    attach(Side::destination, destination_);
    destination_.ask_source = [this] {
      return network_.up && bench_.reachable(Side::source) ? source_.verdict() : plan::Verdict::undecided;
    };
    source_.step_crashed = [this] { crash(Side::source); };
    destination_.step_crashed = [this] { crash(Side::destination); };
    draw_faults();
  }

  Verdicts run() {
    bench_.loop.after(0s, [this] { source_.migrate(draw_options()); });
    for (unsigned i = 0; i < bench_.faults.cancels; ++i) {
      bench_.loop.after(bench_.random.between(0ms, 600ms),
                        [this] { bench_.when_awake(Side::source, [this] { source_.cancel(); }); });
    }
    for (Side side : {Side::source, Side::destination}) {
      const auto index = static_cast<size_t>(side);
      next_crash(side);
      if (auto at = bench_.faults.power_at[index]; at != 0ns) bench_.loop.after(at, [this, side] { lose_power(side); });
      if (auto at = bench_.faults.sleep_at[index]; at != 0ns) bench_.loop.after(at, [this, side] { fall_asleep(side); });
    }
    next_loss();
    dies_late_ = bench_.hooks.operator_decides() && bench_.random.coin();
    if (bench_.hooks.operator_decides()) wait_for_commit();
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
    result_.taken_back = world_.taken_back();
    result_.killed_fenced = world_.killed_fenced != 0;
    result_.source_crashes = source_.crashes;
    result_.destination_crashes = destination_.crashes;
    result_.moved = world_.destination == Tree::running;
    return std::move(result_);
  }

 private:
  template <typename Agent>
  void attach(Side side, Agent& agent) {
    auto message = [this, side, &agent](Network::Id id, plan::Message m, const std::string& why) {
      bench_.when_awake(side, [&agent, id, m, why] { agent.receive(id, m, why); });
    };
    auto lost = [this, side, &agent](Network::Id id) { bench_.when_awake(side, [&agent, id] { agent.lost(id); }); };
    network_.attach(side, {message, lost});
  }
  void draw_faults();
  MigrationOptions draw_options();
  void next_crash(Side side);
  void crash(Side side);
  void lose_power(Side side);
  void take_power(Side side);
  void fall_asleep(Side side);
  void restart_later(Side side);
  void next_loss();
  void heal();
  void poll_pager();
  void play();
  bool operator_recovers();
  void wait_for_commit();
  bool operator_decides();
  bool operator_asks();
  void say(const plan::DestinationGone& gone);
  void check_rest();

  Bench bench_;
  World world_;
  Network network_;
  SourceAgent source_;
  DestinationAgent destination_;
  Verdicts result_;
  bool faultless_ = false;
  bool destination_dead_ = false;
  bool dies_late_ = false;  // not before the source has heard that it runs there
};

void Simulation::draw_faults() {
  Random& random = bench_.random;
  Faults& faults = bench_.faults;
  faults.end = bench_.loop.now() + random.between(100ms, random.coin() ? 2s : 120s);
  faultless_ = random.chance(0.03) && !bench_.hooks.operator_decides();
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
  for (Nanoseconds& at : faults.power_at) at = random.chance(0.07) ? random.between(1ms, 400ms) : 0ns;
  for (Nanoseconds& at : faults.sleep_at) at = random.chance(0.07) ? random.between(1ms, 400ms) : 0ns;
  faults.power = random.chance(0.25) ? 0.5 : 0;
  for (unsigned& number : faults.power_in_sync) number = random.chance(0.2) ? 1 + static_cast<unsigned>(random.below(8)) : 0;
  faults.sleep = random.chance(0.2) ? 0.5 : 0;
  for (NodeClock& clock : bench_.clocks) clock.ppm = static_cast<int64_t>(random.below(100'001)) - 50'000;
  if (random.chance(0.5)) faults.loss_every = random.between(50ms, random.coin() ? 500ms : 10s);
  faults.outage = random.coin() ? 0.3 : 0;
  if (random.chance(0.25)) faults.cancels = 1 + static_cast<unsigned>(random.below(3));
  faults.registry = bench_.deaths.chance(0.2) ? (bench_.deaths.coin() ? 1 : 0.4) : 0;
  faults.kill_fenced = bench_.deaths.chance(0.15) ? 1 : 0;
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
  if (bench_.random.chance(bench_.faults.power)) return lose_power(side);
  if (bench_.random.chance(bench_.faults.sleep)) return fall_asleep(side);
  if (side == Side::source) {
    source_.crash();
  } else {
    destination_.crash();
  }
  restart_later(side);
}

// With a node goes all that runs on it, and what its disk has not got.
void Simulation::lose_power(Side side) {
  if (!bench_.faulty()) return;
  take_power(side);
  restart_later(side);
}

void Simulation::take_power(Side side) {
  bench_.note(side, "the node LOSES POWER");
  ++result_.power_losses[static_cast<size_t>(side)];
  if (side == Side::source) {
    source_.crash();
    world_.source_disk.lose_power();
    if (world_.source != Tree::killed) world_.source = Tree::lost;
    world_.source_egress = world_.source_repair = false;
  } else {
    destination_.crash();
    world_.destination_disk.lose_power();
    const bool commit = world_.journalled_verdict() == plan::Verdict::commit;
    world_.given_up = world_.given_up || (world_.destination != Tree::absent && commit);
    world_.destination = Tree::absent;
    world_.destination_egress = world_.prepared = world_.map_out = world_.pages_complete = false;
  }
  network_.lose_all();
}

// Stopped as a process, or with its machine, whose clock then may not count that time.
void Simulation::fall_asleep(Side side) {
  if (bench_.asleep(side)) return;
  const Nanoseconds time = bench_.random.between(10ms, bench_.random.coin() ? 1s : 40s);
  bench_.note(side, "sleeps for " + std::to_string(time / 1ms) + " ms");
  NodeClock& clock = bench_.clock(side);
  clock.asleep_until = bench_.loop.now() + time;
  if (bench_.random.coin()) bench_.loop.after(time, [&clock, time] { clock.unseen += time; });
  // The other side hears nothing of it, and gives the connection up.
  if (time > 250ms && bench_.random.coin()) {
    bench_.loop.after(bench_.random.between(250ms, 2s), [this] { network_.lose_all(); });
  }
}

void Simulation::restart_later(Side side) {
  bench_.loop.after(bench_.random.between(10ms, bench_.random.chance(0.1) ? 60s : 500ms),
                    [this, side] {
                      if (side == Side::source) source_.restart();
                      else if (!destination_dead_) destination_.restart();
                    });
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
  if (!destination_dead_) destination_.restart();
}

// Then the destination's node is gone, or knows nothing any more, sooner or later.
void Simulation::wait_for_commit() {
  bench_.loop.after(bench_.random.between(0ms, 2ms), [this] {
    const auto& state = source_.state();
    const bool committed = state && state->phase == plan::SourcePhase::committed;
    const bool serving = state && state->phase == plan::SourcePhase::serving;
    if (!bench_.random.chance(committed && !dies_late_ ? 0.5 : serving ? 0.1 : 0)) {
      if (bench_.loop.now() < bench_.faults.end) wait_for_commit();
      return;
    }
    if (bench_.hooks.destination_forgets) {
      destination_.forget(world_.noted_that_it_ran && bench_.random.coin());
      restart_later(Side::destination);
    } else {
      bench_.note(Side::destination, "the node is gone");
      destination_dead_ = true;
      take_power(Side::destination);
    }
    if (!bench_.random.coin()) return;
    // And what the source's agent knows of it is what it has written down.
    bench_.loop.after(bench_.random.between(0ms, 50ms), [this] {
      source_.crash();
      restart_later(Side::source);
    });
  });
}

// Whoever knows that it is switched off, whatever it has done before. It comes back all the same, some time later.
bool Simulation::operator_decides() {
  const auto& state = source_.state();
  if (!destination_dead_) return destination_.has_nothing() && operator_asks();
  if (!state || state->phase == plan::SourcePhase::done) {
    // Nothing waits for it: it had said everything before it went.
    destination_dead_ = false;
    destination_.restart();
    return true;
  }
  auto choice = bench_.random.coin() ? plan::GoneChoice::resume : plan::GoneChoice::end;
  if (!plan::may_decide(*state, {choice})) choice = plan::GoneChoice::end;
  if (!plan::may_decide(*state, {choice})) return false;
  say({choice});
  bench_.loop.after(bench_.random.between(0ms, bench_.random.coin() ? 50ms : 60s), [this] {
    destination_dead_ = false;
    destination_.restart();
  });
  return true;
}

// Of one that is there, and says for ever that it has nothing: he looks there before he decides, and removes what is left there. What runs
// there with all of its memory may stay.
bool Simulation::operator_asks() {
  const auto& state = source_.state();
  const bool waits = state && plan::may_decide(*state, {plan::GoneChoice::end, true});
  const bool runs = world_.destination == Tree::running;
  if (runs && !waits && world_.complete_once) {
    const bool left = world_.prepared;
    world_.prepared = false;  // the pager ends by itself
    return left;
  }
  const bool left = world_.destination != Tree::absent || world_.prepared;
  if (left) destination_.clean_up();
  if (!waits) return left;
  auto choice = runs || bench_.random.coin() ? plan::GoneChoice::end : plan::GoneChoice::resume;
  if (!plan::may_decide(*state, {choice, true})) choice = plan::GoneChoice::end;
  say({choice, true});
  return true;
}

void Simulation::say(const plan::DestinationGone& gone) {
  const bool resume = gone.choice == plan::GoneChoice::resume;
  (resume ? result_.resumed_here : result_.ended_here) = true;
  (resume ? world_.decided_here : world_.given_up) = true;
  source_.decide(gone);
  if (!bench_.random.coin()) return;
  bench_.loop.after(bench_.random.between(0ms, 20ms), [this] {
    source_.crash();
    restart_later(Side::source);
  });
}

// The pager lives apart from both agents; it needs the source's agent, which serves the frozen tree, and the network.
void Simulation::poll_pager() {
  bench_.loop.after(bench_.random.between(1ms, 20ms), [this] {
    bool served = network_.up && source_.up() && world_.source != Tree::killed && world_.source != Tree::lost;
    bool can = world_.map_out && world_.prepared && served;
    if (can && !world_.pages_complete && bench_.random.chance(0.3)) {
      world_.pages_complete = world_.complete_once = true;
      bench_.note(Side::destination, "the pager has every page");
      bench_.when_awake(Side::destination, [this] {
        if (world_.pages_complete) destination_.pages_complete();
      });
    }
    if (world_.source == Tree::lost) return;
    const auto& state = source_.state();
    const bool moving = state ? state->phase != plan::SourcePhase::done : world_.source_registry.busy;
    if (bench_.faulty() || moving) poll_pager();
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
  bool source = told(source_.state()) || !source_.undecided().empty();
  bool destination = !destination_dead_ && (told(destination_.state()) || !destination_.undecided().empty());
  if (source) source_.recover();
  if (destination) destination_.recover();
  // Its status says that pages are missing, and the source's that its tree is gone.
  const auto& state = destination_.state();
  const bool waits = state && state->phase == plan::DestinationPhase::running && !state->pages_complete &&
                     world_.source == Tree::lost;
  if (waits) destination_.stop();
  if (source) poll_pager();
  result_.told_to_recover = result_.told_to_recover || source || destination;
  result_.stopped = result_.stopped || waits;
  const bool decides = operator_decides();
  return source || destination || waits || decides;
}

void Simulation::check_rest() {
  auto violate = [this](const std::string& what) { bench_.violate(what + ": " + world_.describe()); };
  const auto& source = source_.state();
  const auto& destination = destination_.state();
  if (!bench_.loop.idle()) return violate("no rest in bounded time");
  for (const std::string& why : {source_.undecided(), destination_.undecided()}) {
    if (!why.empty()) return violate("undecided for ever: " + why);
  }
  if (source && source->phase != plan::SourcePhase::done) {
    return violate(std::string("deadlock: the source rests in phase ") + plan::to_string(source->phase));
  }
  if (destination && destination->phase != plan::DestinationPhase::done) {
    return violate(std::string("deadlock: the destination rests in phase ") + plan::to_string(destination->phase));
  }
  for (const Registry* registry : {&world_.source_registry, &world_.destination_registry}) {
    if (registry->busy_on_disk) return violate("a registry says for ever that the workload is on its way");
  }
  const auto& history = world_.source_registry.history;
  result_.known = history.has_value();
  result_.outcome = source ? source->outcome : history.value_or(Outcome::failed);
  bool commit = world_.journalled_verdict() == plan::Verdict::commit;
  if (world_.prepared) return violate("something is left at the destination");
  if (commit) {
    const bool runs = world_.destination == Tree::running && world_.destination_egress;
    if (!runs && !world_.given_up && !(world_.complete_once && world_.has_run)) return violate("committed, and lost");
    if (world_.source != Tree::killed && world_.source != Tree::lost)
      return violate("committed, and something is left behind");
  } else {
    if (!world_.source_serves() && world_.source != Tree::lost)
      return violate("not committed, and the source does not serve");
    if (world_.destination != Tree::absent) return violate("not committed, and something is left there");
  }
  bool says_moved = result_.outcome == Outcome::complete || result_.outcome == Outcome::failed_after_commit ||
                    result_.outcome == Outcome::lost;
  if (result_.known && says_moved != commit)
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
