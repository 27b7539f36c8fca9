// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "frame_proxy.h"

// The table of kills: where, and who.
namespace mose::test {

enum class Victim : uint8_t { source_agent, destination_agent, criu, link };

// Which side has the workload afterwards. `either`: the kill races with the commit record, and both ends are right.
enum class Side : uint8_t { source, destination, either };

struct KillCase {
  std::string name;
  Victim victim = Victim::source_agent;
  Side expected = Side::source;
  bool standby = false;  // one is made: what comes first at CRIU is its dump and its restore
  // At a point of CRIU's dump or restore (see criu_interposer.cpp) ...
  std::string role, point, moment;
  // ... or at a frame between the agents.
  std::optional<FrameRule> frame;
};

// With MOSE_FULL in the environment every row, else every second one.
[[nodiscard]] const std::vector<KillCase>& kill_cases();
[[nodiscard]] const char* to_string(Side side);
std::ostream& operator<<(std::ostream& out, const KillCase& kill);

}  // namespace mose::test
