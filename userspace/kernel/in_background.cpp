// SPDX-License-Identifier: MIT
#include "kernel/in_background.h"

#include <sched.h>
#include <unistd.h>

#include <utility>

namespace mose {

// A real-time thread stays what it is: its priority would have to be put back as well.
InBackground::InBackground() {
  policy_ = ::sched_getscheduler(0);
  if (policy_ != SCHED_OTHER && policy_ != SCHED_BATCH) return;
  const sched_param parameter{};
  if (::sched_setscheduler(0, SCHED_IDLE, &parameter) == 0) thread_ = ::gettid();
}

void InBackground::end() {
  const sched_param parameter{};
  if (const pid_t thread = std::exchange(thread_, 0); thread != 0) (void)::sched_setscheduler(thread, policy_, &parameter);
}

}  // namespace mose
