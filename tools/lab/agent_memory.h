// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "lab/state.h"

// What the agents and their helpers hold of memory and descriptors, move by move: what grows with the number of moves
// is a leak, and it is seen in the report of any longer run.
namespace mose::lab {

// The processes of one program on one node.
struct Footprint {
  uint32_t processes = 0;
  uint64_t resident_bytes = 0;
  uint64_t anonymous_bytes = 0;  // of them without files: code that is touched for the first time is no leak
  uint64_t descriptors = 0;
};
// By node and program, without programs that do not run.
using Footprints = std::map<std::pair<std::string, std::string>, Footprint>;

// Looks at all processes below the lab's control group now. One that ends meanwhile is left out.
[[nodiscard]] Result<Footprints> agent_footprints(const LabState& state);

// After which move growth begins to count, where `moves` were made: each agent has been source and destination once, so
// that what it makes once and keeps is there, and the workload is on the same node as after the last. Absent where too
// few were made to say anything.
[[nodiscard]] std::optional<size_t> warm_move(size_t moves);

// The report's `agents`. `series`: before the first move, and after each.
[[nodiscard]] nlohmann::ordered_json agents_json(const std::vector<Footprints>& series);

}  // namespace mose::lab
