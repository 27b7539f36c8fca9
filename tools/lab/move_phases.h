// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "client/phases.h"

namespace mose::lab {

// When a move was where, from the timeline of its report: copying from the first pre-copy round on, the switchover from
// the last hold (freeze, dump) to the end of whatever came last of activating, draining and committing. What the
// timeline does not have is 0. All stamps are of one machine's monotonic clock.
[[nodiscard]] client::PhaseBounds phase_bounds(const std::string& report);

}  // namespace mose::lab
