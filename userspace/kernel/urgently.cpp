// SPDX-License-Identifier: MIT
#include "kernel/urgently.h"

#include <sys/resource.h>

namespace mose {

Urgently::Urgently() {
  if (unpreempted_.granted()) return;
  nice_ = getpriority(PRIO_PROCESS, 0);
  niced_ = setpriority(PRIO_PROCESS, 0, -20) == 0;
}

Urgently::~Urgently() {
  if (niced_) (void)setpriority(PRIO_PROCESS, 0, nice_);
}

}  // namespace mose
