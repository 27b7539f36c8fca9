// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <vector>

#include "base/result.h"

namespace mose {

// One of `processes` that runs in the memory of another of them: a child between vfork() (or posix_spawn()) and exec, whose parent
// sleeps until then in a way that no tracer gets it out of. 0: none. Only of a frozen tree it stays true. Processes that have ended
// have no memory. ENOSYS where the kernel does not tell. Not seen: who waits as in vfork() for a child with a memory of its own
// (CLONE_VFORK without CLONE_VM), which no library does.
[[nodiscard]] Result<pid_t> first_vforked(const std::vector<pid_t>& processes);

}  // namespace mose
