// SPDX-License-Identifier: MIT
#pragma once

#include <optional>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "kernel/cgroup.h"
#include "kernel/process.h"

// A workload that writes faster than the link carries can be slowed down while it is pre-copied, where the operator asked
// for that: its control group is frozen for a share of each 20 ms. A process of its own does it (mose-throttle), so that an agent that
// is killed leaves nothing frozen: the orders end with the agent, and at their end it thaws and exits.
namespace mose::agent {

// Whether this host can: the reason why not is for the operator.
[[nodiscard]] Status can_throttle();

// Life: set() starts the process with its first order and gives it others; lift() ends it, after which set() may start anew. The
// destructor lifts. One thread at a time. The group is a borrow, and frozen by nobody else between set() and lift().
class Throttle {
 public:
  explicit Throttle(const Cgroup& group) : group_(group) {}
  ~Throttle();
  Throttle(const Throttle&) = delete;
  Throttle& operator=(const Throttle&) = delete;

  // From now on the group stands still for so many percent of the time. A handle of the process: one that ends without lift()
  // may have left the group frozen, which lift_dead() puts right.
  [[nodiscard]] Result<ProcessHandle> set(unsigned percent);
  // When it has worked the group runs, and no process is left that could freeze or thaw it. Else call it again: it may be either.
  // Nothing to lift is fine. Takes a millisecond; bounded by two seconds where the process does not answer.
  [[nodiscard]] Status lift();
  // The same, where the process has ended by itself; else nothing.
  [[nodiscard]] Status lift_dead();
  // For how long the group stood still, up to the last lift(); absent where a process could not say it any more.
  [[nodiscard]] std::optional<Nanoseconds> stood_still() const { return stood_still_; }

 private:
  [[nodiscard]] Status start();
  [[nodiscard]] Status thaw();
  void add_time();

  const Cgroup& group_;
  ProcessHandle process_;
  Fd orders_, words_;      // its standard input and output
  bool thaw_due_ = false;  // a process has ended that may have left the group frozen
  std::optional<Nanoseconds> stood_still_ = Nanoseconds(0);
};

}  // namespace mose::agent
