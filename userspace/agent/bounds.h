// SPDX-License-Identifier: MIT
#pragma once

#include "base/clock.h"

namespace mose::agent {

// For what was killed or told to end (a tree, CRIU, a pager) to be gone.
inline constexpr Nanoseconds kExitBound = std::chrono::seconds(5);
// For a control group to have stopped: a task in a system call that cannot be interrupted is waited for.
inline constexpr Nanoseconds kFreezeBound = std::chrono::seconds(2);

}  // namespace mose::agent
