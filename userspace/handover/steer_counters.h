// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "handover/steering.h"
#include "mose/bpf/steer.h"

namespace mose::handover {

// What the programs have counted, as one sum. `each`: of all CPUs, and of one or more slots.
[[nodiscard]] SteerCounters sum_counts(const std::vector<mose_steer_counts>& each);

}  // namespace mose::handover
