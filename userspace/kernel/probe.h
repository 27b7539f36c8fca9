// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mose {

// What this kernel and these privileges allow: each probe tries the operation itself, on things of its own that it
// removes again, and never asks for a version. Probes do not depend on each other; results are kept for the life of the
// process, because what they ask for does not change while it runs.
enum class ProbeState : uint8_t { no, yes, unknown };
[[nodiscard]] const char* to_string(ProbeState state);

struct ProbeResult {
  ProbeState state = ProbeState::unknown;
  std::string detail;  // what came back
};

struct Probe {
  std::string_view name;
  std::string_view lost;  // what is lost without it
  bool required;          // nothing can be moved without it
};
// All probes of this folder, in the order in which they are shown.
[[nodiscard]] const std::vector<Probe>& kernel_probes();
// Runs it, or gives what came out the first time. An unknown name is `unknown`. Any thread.
[[nodiscard]] ProbeResult probe(std::string_view name);

// For tests: from now on the probe gives this, as if the host were so. unforce_probes() ends it for all.
void force_probe(std::string_view name, ProbeState state);
void unforce_probes();

}  // namespace mose
