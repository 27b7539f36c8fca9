// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>

#include "base/result.h"
#include "lab/state.h"

// What the agents and their helpers hold of memory and descriptors. Looked at after the first and after the last repeat
// of a run: what grows with the number of moves is a leak, and it is seen in the report of any longer run.
namespace mose::lab {

// The processes of one program on one node.
struct Footprint {
  uint32_t processes = 0;
  uint64_t resident_bytes = 0;
  uint64_t descriptors = 0;
};
// By node and program, without programs that do not run.
using Footprints = std::map<std::pair<std::string, std::string>, Footprint>;

// Looks at all processes below the lab's control group now. One that ends meanwhile is left out.
[[nodiscard]] Result<Footprints> agent_footprints(const LabState& state);

// The report's `agents`: an entry for each node and program of either time, null where it did not run then.
[[nodiscard]] nlohmann::ordered_json footprints_json(const Footprints& first, const Footprints& last);

}  // namespace mose::lab
