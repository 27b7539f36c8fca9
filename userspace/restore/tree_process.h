// SPDX-License-Identifier: MIT
#pragma once

#include "base/result.h"
#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "model/page_set.h"

namespace mose::restore {

// The process of a restored tree that has this number in its own pid namespace, where numbers are unique: `tree` holds that tree
// and nothing else, frozen.
[[nodiscard]] Result<ProcessHandle> process_of_space(const Cgroup& tree, SpaceId space);

}  // namespace mose::restore
