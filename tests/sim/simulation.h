// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/bench.h"
#include "sim/destination_agent.h"
#include "sim/network.h"
#include "sim/source_agent.h"
#include "sim/world.h"

// One migration of one seed: both agents, the network between them, an operator, and chance that breaks them until a
// random moment. After that everything works, and within bounded virtual time exactly one side must run the workload,
// the other must have nothing left of it, and the operator must have been told the truth.
namespace mose::sim {

struct Verdicts {                  // what one seed came to
  std::string violation;           // empty: every invariant held
  std::vector<std::string> trace;  // filled when asked for
  Outcome outcome = Outcome::failed;
  bool known = false;                             // the source still knew the migration at the end (or had begun none)
  bool moved = false;                             // the workload runs at the destination
  bool told_to_recover = false;                   // an end named `mose recover` on the way
  unsigned power_losses[2] = {0, 0};              // of the source's node and of the destination's
  bool taken_back = false;                        // a durable commit was overruled
  bool resumed_here = false, ended_here = false;  // by the operator of a source whose destination was gone
  bool killed_fenced = false;                     // a restored tree was killed while it waited for its verdict
  bool stopped = false;                           // the operator gave up a workload whose pages are nowhere any more
  std::vector<plan::SourcePhase> source_crashes;  // phases in which an agent died
  std::vector<plan::DestinationPhase> destination_crashes;
};

// The same seed and hooks give the same run.
[[nodiscard]] Verdicts simulate(uint64_t seed, const Hooks& hooks = {}, bool tracing = false);

}  // namespace mose::sim
