// SPDX-License-Identifier: MIT
#pragma once

#include "agent/config.h"
#include "base/result.h"

namespace mose::agent {

// The whole agent from its directories to its last breath: returns after SIGTERM or SIGINT, or with the reason why it
// could not start. Call it once, from the main thread, before any other thread exists.
[[nodiscard]] Status run_agent(const Config& config);

}  // namespace mose::agent
