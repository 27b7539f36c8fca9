// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace mose::lab {

// Median, p95 and max of the figures of the runs, per strategy and per baseline, and each strategy's medians divided by
// each baseline's. A statistic of nothing is null; a ratio needs both medians and a divisor above zero.
[[nodiscard]] nlohmann::ordered_json summarise(const nlohmann::ordered_json& runs);

}  // namespace mose::lab
