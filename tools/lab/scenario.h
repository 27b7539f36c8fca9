// SPDX-License-Identifier: MIT
#pragma once

#include "base/result.h"
#include "lab/options.h"

namespace mose::lab {

// `lab run redis`: a live Redis moved between the nodes while a client talks to it, alternating with the baselines, each
// move judged by the client. Makes the lab when it is down and takes it down again unless it was up (or --keep).
// True when every run is verified. The caller holds the lab's lock.
[[nodiscard]] Result<bool> run_scenario(const CommandLine& line);

}  // namespace mose::lab
