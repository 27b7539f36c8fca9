// SPDX-License-Identifier: MIT
#pragma once

#include <linux/capability.h>

#include <cstdint>
#include <span>

#include "base/result.h"

namespace mose {

// What a process of ours gives up for good, before it reads what others have written.

// No core file, no debugger but one with CAP_SYS_PTRACE, and no privilege that an executed file would bring. The whole
// process, and what it forks.
[[nodiscard]] Status forbid_dumps_and_privileges();

// Of the calling thread, permitted: a set of bits. 0 where it cannot be read.
[[nodiscard]] uint64_t own_capabilities();

// Capabilities are those of linux/capability.h. The calling thread keeps these of what it has and can never have others:
// before there are other threads. System calls only: also for a child of clone() that may not take a lock.
[[nodiscard]] Status keep_capabilities(std::span<const int> kept);

}  // namespace mose
