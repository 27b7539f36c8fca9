// SPDX-License-Identifier: MIT
#pragma once

#include <sched.h>

#include "base/clock.h"

// Manners for who locks another process's address space again and again: its threads wait for that lock when they map
// or unmap.
namespace mose {

// While it lives this thread is preferred to everything else on its processor, where the host allows that: a holder
// that has been preempted lets the others wait for milliseconds. For steps that together take little time.
class Unpreempted {
 public:
  Unpreempted();
  ~Unpreempted();
  Unpreempted(const Unpreempted&) = delete;
  Unpreempted& operator=(const Unpreempted&) = delete;
  [[nodiscard]] bool granted() const { return policy_ >= 0; }

 private:
  int policy_ = -1;
  sched_param before_{};
};

// Pauses between steps: who takes the lock again at once is faster than a waiter wakes up.
class LockTurns {
 public:
  // After how long a pause is due.
  explicit LockTurns(Nanoseconds held_max = std::chrono::microseconds(100)) : held_max_(held_max) {}
  // A step has held the lock for at most so long. Returns after a pause when it is time for one.
  void held(Nanoseconds time);

 private:
  Nanoseconds held_max_, since_pause_{0};
};

}  // namespace mose
