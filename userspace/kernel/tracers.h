// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <set>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "kernel/process.h"

// Who traces a workload: a debugger, strace, a CRIU. Processes and threads that end meanwhile are not traced.
namespace mose {

// As this pid namespace shows them: those outside of it are not among them.
[[nodiscard]] Result<std::set<pid_t>> tracers_of(const std::vector<ProcessHandle>& processes);
// A thread of theirs that someone traces, wherever he is; 0: none. Found by trying to trace each for a moment, which
// stops none.
[[nodiscard]] Result<pid_t> first_traced(const std::vector<ProcessHandle>& processes);
// As wait_untraced() of process.h, but `others` may stay: who was there before the CRIU that is waited for.
[[nodiscard]] Status wait_untraced(const std::vector<ProcessHandle>& processes, Nanoseconds bound,
                                   const std::set<pid_t>& others);

}  // namespace mose
