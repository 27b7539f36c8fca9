// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"

namespace mose::agent {

// What the agent keeps of root. It cannot keep less than the sum of three: what it does itself, what CRIU does for it, and what the
// workloads may have that it starts and restores (they inherit from it, and a restored one must get back all that it had).
// For the same reason it has no seccomp filter and no no_new_privs: both would be theirs, and another filter with each move.
struct AgentCapability {
  int number;
  const char* name;
  const char* reason;  // README, "Privileges", says the same
};
[[nodiscard]] std::span<const AgentCapability> agent_capabilities();

// Capabilities that CRIU could not give back here to a task that has them: it would wait for ever for one that cannot go on. Names,
// "CAP_A, CAP_B"; empty: none. `wanted` is a set of bits.
[[nodiscard]] std::string capabilities_missing_here(uint64_t wanted);

// "CAP_A, CAP_B" of a set of bits.
[[nodiscard]] std::string capability_names(uint64_t set);

// Gives up the others, for good: before there is a second thread.
[[nodiscard]] Status leave_other_capabilities();

}  // namespace mose::agent
