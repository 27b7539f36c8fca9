// SPDX-License-Identifier: MIT
#include "lab/scenario.h"
namespace mose::lab {
Result<bool> run_scenario(const CommandLine&) { return fail("not yet"); }
}  // namespace mose::lab
