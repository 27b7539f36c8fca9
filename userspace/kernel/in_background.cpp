// SPDX-License-Identifier: MIT
#include "kernel/in_background.h"

#include <sched.h>
#include <unistd.h>

namespace mose {

InBackground::InBackground() : thread_(::gettid()), policy_(::sched_getscheduler(0)) {}

// A real-time thread stays what it is: its priority would have to be put back as well.
void InBackground::begin() {
  if (ended_ || (policy_ != SCHED_OTHER && policy_ != SCHED_BATCH)) return;
  const sched_param parameter{};
  (void)::sched_setscheduler(0, SCHED_IDLE, &parameter);
  if (ended_) put_back();
}

void InBackground::end() {
  if (!ended_.exchange(true)) put_back();
}

void InBackground::put_back() const {
  if (policy_ != SCHED_OTHER && policy_ != SCHED_BATCH) return;
  const sched_param parameter{};
  (void)::sched_setscheduler(thread_, policy_, &parameter);
}

}  // namespace mose
