// SPDX-License-Identifier: MIT
#pragma once

#include "base/clock.h"

namespace mose::agent {

// For what was killed or told to end (a tree, CRIU, a pager) to be gone.
inline constexpr Nanoseconds kExitBound = std::chrono::seconds(5);

}  // namespace mose::agent
