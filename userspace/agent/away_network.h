// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "agent/config.h"
#include "base/result.h"

// The network of a workload that has gone to a node behind a router. On the segment that it left nobody else can answer
// for its addresses, so its namespace stays when its processes are gone, bound to a file, and the programs go on
// redirecting, with or without an agent; until somebody ends it.
namespace mose::agent {

// `netns` is borrowed; the file holds the namespace from here on. Repeating it is harmless.
[[nodiscard]] Status keep_away_network(const Config& config, const std::string& workload, int netns);
[[nodiscard]] bool away_network_kept(const Config& config, const std::string& workload);
// The network of any workload that is not here any more, kept or not: device, programs, pins, namespace. Nothing is
// fine.
[[nodiscard]] Status end_network(const Config& config, const std::string& workload);

}  // namespace mose::agent
