// SPDX-License-Identifier: MIT
#include "kernel/lock_turns.h"

#include <chrono>
#include <thread>

namespace mose {
namespace {

constexpr auto kTurn = std::chrono::microseconds(100);

}  // namespace

Unpreempted::Unpreempted() {
  const int policy = sched_getscheduler(0);
  if (policy < 0 || (policy & ~SCHED_RESET_ON_FORK) != SCHED_OTHER || sched_getparam(0, &before_) != 0) return;
  const sched_param first{.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0) policy_ = policy;
}

Unpreempted::~Unpreempted() {
  if (policy_ < 0 || sched_setscheduler(0, policy_, &before_) == 0) return;
  // Without CAP_SYS_NICE that flag cannot be taken off again.
  static_cast<void>(sched_setscheduler(0, policy_ | SCHED_RESET_ON_FORK, &before_));
}

void LockTurns::held(Nanoseconds time) {
  since_pause_ += time;
  if (since_pause_ < held_max_) return;
  since_pause_ = {};
  std::this_thread::sleep_for(kTurn);
}

}  // namespace mose
