// SPDX-License-Identifier: MIT
#include "kernel/urgently.h"

#include <sys/resource.h>

namespace mose {

Urgently::Urgently() {
  policy_ = sched_getscheduler(0);
  if (policy_ < 0 || sched_getparam(0, &parameters_) != 0) return;
  sched_param lowest_realtime{.sched_priority = 1};
  changed_ = sched_setscheduler(0, SCHED_FIFO, &lowest_realtime) == 0;
  if (changed_) return;
  nice_ = getpriority(PRIO_PROCESS, 0);
  niced_ = setpriority(PRIO_PROCESS, 0, -20) == 0;
}

Urgently::~Urgently() {
  if (changed_) (void)sched_setscheduler(0, policy_, &parameters_);
  if (niced_) (void)setpriority(PRIO_PROCESS, 0, nice_);
}

}  // namespace mose
