// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json.hpp>

#include "lab/options.h"

namespace mose::test {

// Runs `mose lab run` with what `line` asks for and gives its report, checked against the schema, with each run
// verified; without "runs" and with a failure where there is none.
[[nodiscard]] nlohmann::ordered_json report_of(lab::CommandLine line);

}  // namespace mose::test
