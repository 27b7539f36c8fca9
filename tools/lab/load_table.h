// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace mose::lab {

// For people: the load by phases of a move (medians over the runs of each contestant; the worst of the maxima) and what
// TCP counted (sums). Empty when no run has any of it.
[[nodiscard]] std::string load_table(const nlohmann::ordered_json& runs);

}  // namespace mose::lab
