// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "plan/destination.h"
#include "plan/source.h"

// What every part of the simulation shares: virtual time and each node's clock of it, the seeded source of chance, the faults of this run, the hook
// that lets a test tamper with what the planner says, and the trace. One Bench lives as long as one seed.
namespace mose::sim {

enum class Side : uint8_t { source, destination };
inline const char* to_string(Side side) {
  return side == Side::source ? "source" : "destination";
}

using namespace std::chrono_literals;

// The same numbers from the same seed with every standard library: no std::*_distribution.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : engine_() % bound; }
  bool chance(double p) { return static_cast<double>(engine_() >> 11) * 0x1p-53 < p; }
  bool coin() { return (engine_() >> 32 & 1) != 0; }
  Nanoseconds between(Nanoseconds low, Nanoseconds high) {
    return low + Nanoseconds(below(static_cast<uint64_t>((high - low).count()) + 1));
  }

 private:
  std::mt19937_64 engine_;
};

// Events in the order of virtual time; equal times in the order of scheduling.
class Loop {
 public:
  [[nodiscard]] Timestamp now() const { return now_; }
  void after(Nanoseconds delay, std::function<void()> run) { events_.push({now_ + delay, next_++, std::move(run)}); }
  // Runs the next event. False when there is none, or none before `limit`.
  bool run_one(Timestamp limit) {
    if (events_.empty() || events_.top().at > limit) return false;
    auto run = std::move(const_cast<Entry&>(events_.top()).run);
    now_ = events_.top().at;
    events_.pop();
    run();
    return true;
  }
  [[nodiscard]] bool idle() const { return events_.empty(); }

 private:
  struct Entry {
    Timestamp at;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Entry& other) const { return at != other.at ? at > other.at : order > other.order; }
  };
  std::priority_queue<Entry> events_;
  Timestamp now_{};
  uint64_t next_ = 0;
};

// One node's monotonic clock: it runs a little too fast or too slow, and does not see the time of some of its agent's sleep.
struct NodeClock {
  int64_t ppm = 0;
  Nanoseconds unseen{0};
  Timestamp asleep_until{};  // its agent is stopped until then, or waits for its disk and does nothing else

  // Both ways round so that what is waited for has come when its time has.
  [[nodiscard]] Timestamp at(Timestamp world) const {
    const int64_t ns = (world.time_since_epoch() - unseen).count();
    return Timestamp(Nanoseconds(ns + ns / 1'000'000 * ppm));
  }
  [[nodiscard]] Nanoseconds until(Timestamp local, Timestamp world) const {
    const int64_t left = (local - at(world)).count();
    return Nanoseconds(left <= 0 ? 0 : left * 1'000'000 / (1'000'000 + ppm) + 1'000'000);
  }
};

// What may go wrong until `end`; after it everything works.
struct Faults {
  Timestamp end{};
  double fail = 0;  // an action fails
  // From `stubborn_from` on every action of this number on this side fails: a full disk, a tree that will not die.
  int stubborn[2] = {-1, -1};
  Timestamp stubborn_from{};
  double slow = 0;                          // an action, a message or the news of a loss takes up to 40 s
  double step_crash = 0;                    // the agent dies right after a step has emitted its actions
  double duplicate = 0;                     // COMMIT arrives twice
  Nanoseconds crash_every[2] = {0ns, 0ns};  // mean time between other crashes per side, 0: never
  Nanoseconds power_at[2] = {0ns, 0ns};     // the node loses power, 0: never
  Nanoseconds sleep_at[2] = {0ns, 0ns};     // the agent is stopped, and goes on later
  double power = 0;                         // the node, not its agent alone, goes down with such a crash
  unsigned power_in_sync[2] = {0, 0};       // in the middle of this one of its disk's syncs, from 1; 0: in none
  double sleep = 0;                         // or the agent is stopped and goes on later
  Nanoseconds loss_every{0};                // mean time between losses of the connection
  double outage = 0;                        // a loss takes the whole network away for a while
  unsigned cancels = 0;
  double registry = 0;     // from `stubborn_from` on what a node knows of the workload cannot be written
  double kill_fenced = 0;  // a restored tree is killed before its verdict has come: by the kernel for its memory, or by somebody
};

// A seeded bug: what a test may do to the planner's answers and to the journals.
struct Hooks {
  std::function<void(const plan::SourceState& before, const plan::SourceEvent&, plan::SourceStep&)> source;
  std::function<void(const plan::DestinationState& before, const plan::DestinationEvent&, plan::DestinationStep&)>
      destination;
  // True: the record is acknowledged and never written.
  std::function<bool(Side, plan::Record)> forget_record;
  // True: the record is acknowledged when it is written, before its sync has ended.
  std::function<bool(Side, plan::Record)> early_record;
  // What a reader of the journal makes of its text that should have been left as it is.
  std::function<std::string(const std::string& text)> read;
  bool directories_unsynced = false;  // a name counts as durable when it is given
  bool forget_history = false;        // how a migration has ended is not kept at the destination
  bool registry_taken_for_written = false;  // whatever the disk says
  bool blind_to_the_tree = false;     // what is to be thawed is not looked at: an empty group thaws like any other
  // The restored tree is let go when CRIU or its agent dies before the fence.
  bool pager_without_fence = false;
  bool forget_note = false;  // a restarted agent of the source is not told that the workload has run at the destination
  // The destination's node loses its power at some moment and stays away until the source's operator has decided, and longer.
  bool destination_dies = false;
  // Its agent loses its state directory after the commit, and knows nothing of what it has restored, or of what runs there. Or somebody
  // there has thrown away what had run, and taken it for what never did.
  bool destination_forgets = false;
  bool forgotten_is_aborted = false;  // an agent that knows nothing of a migration says of it that it has never run

  // Only there does it matter that the source writes down where the workload runs; elsewhere each seed would be another run by it.
  [[nodiscard]] bool operator_decides() const { return destination_dies || destination_forgets; }
};

struct Bench {
  explicit Bench(uint64_t seed) : random(seed), deaths(~seed) {}

  Loop loop;
  Random random;
  Random deaths;  // chance of a later day: apart, so that the rest of a seed stays what it was
  Faults faults;
  Hooks hooks;
  bool tracing = false;
  std::vector<std::string> trace;
  std::string violation;                // the first one; the run ends there
  std::function<bool(Side)> reachable;  // its agent is up, and answers
  std::function<void(Side)> power_fails;
  NodeClock clocks[2];

  [[nodiscard]] bool faulty() const { return loop.now() < faults.end; }
  template <typename Kind>
  bool fails(Side side, Kind kind) {
    if (!faulty()) return false;
    bool stubborn = faults.stubborn[static_cast<int>(side)] == static_cast<int>(kind);
    return (stubborn && loop.now() >= faults.stubborn_from) || random.chance(faults.fail);
  }
  // What the agent knows of the workload goes to the disk; false: it could not.
  bool save(bool known, bool& on_disk) {
    if (faulty() && loop.now() >= faults.stubborn_from && deaths.chance(faults.registry)) return hooks.registry_taken_for_written;
    on_disk = known;
    return true;
  }
  // From half to one and a half of what is typical, rarely very long.
  Nanoseconds duration(Nanoseconds typical) {
    Nanoseconds time = random.between(typical / 2, typical * 3 / 2);
    if (faulty() && random.chance(faults.slow)) time += random.between(0s, 40s);
    return time;
  }
  [[nodiscard]] NodeClock& clock(Side side) { return clocks[static_cast<int>(side)]; }
  [[nodiscard]] bool asleep(Side side) { return loop.now() < clock(side).asleep_until; }
  // At once, or when the side's agent goes on; what waits comes in the order in which it would have.
  void when_awake(Side side, std::function<void()> run) {
    if (!asleep(side)) return run();
    loop.after(clock(side).asleep_until - loop.now(), [this, side, run = std::move(run)] { when_awake(side, run); });
  }
  [[nodiscard]] Timestamp local(Side side) { return clock(side).at(loop.now()); }
  // When the side's clock says so, if it is still `wanted` then; later where its agent sleeps, or has slept meanwhile.
  void at_local(Side side, Timestamp local_time, std::function<bool()> wanted, std::function<void()> run) {
    loop.after(clock(side).until(local_time, loop.now()), [this, side, local_time, wanted, run] {
      when_awake(side, [this, side, local_time, wanted, run] {
        if (!wanted()) return;
        if (local(side) < local_time) return at_local(side, local_time, wanted, run);
        run();
      });
    });
  }
  // The moment of chance between two in which the journal is being synced.
  void may_lose_power(Side side, Timestamp begin, Timestamp end) {
    const int index = static_cast<int>(side);
    if (++syncs_[index] != faults.power_in_sync[index]) return;
    loop.after(random.between(begin - loop.now(), end - loop.now()), [this, side] { power_fails(side); });
  }
  void note(Side side, const std::string& text) {
    if (tracing) trace.push_back(stamp() + to_string(side) + ": " + text);
  }
  void violate(const std::string& what) {
    if (!violation.empty()) return;
    violation = what;
    if (tracing) trace.push_back(stamp() + "VIOLATION: " + what);
  }

 private:
  unsigned syncs_[2] = {0, 0};
  [[nodiscard]] std::string stamp() const {
    char text[32];
    std::snprintf(text, sizeof text, "%12.3f ms  ", to_ms(loop.now().time_since_epoch()));
    return text;
  }
};

// Actions of one agent that are under way: at most one of a kind, each with a token, so that the end of one that was
// cut short is not taken for the end of the next.
template <typename Kind>
class UnderWay {
 public:
  // 0 when one of this kind is under way already.
  uint64_t begin(Kind kind) {
    auto [it, inserted] = tokens_.emplace(kind, next_ + 1);
    return inserted ? ++next_ : 0;
  }
  [[nodiscard]] bool valid(Kind kind, uint64_t token) const {
    auto it = tokens_.find(kind);
    return it != tokens_.end() && it->second == token;
  }
  [[nodiscard]] bool has(Kind kind) const { return tokens_.contains(kind); }
  // The action goes on under a new token: what was scheduled under the old one does not happen.
  uint64_t supersede(Kind kind) { return tokens_[kind] = ++next_; }
  void end(Kind kind) { tokens_.erase(kind); }
  void clear() { tokens_.clear(); }

 private:
  std::map<Kind, uint64_t> tokens_;
  uint64_t next_ = 0;
};

}  // namespace mose::sim
