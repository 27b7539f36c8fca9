// SPDX-License-Identifier: MIT
#pragma once

#include "base/fd.h"
#include "base/result.h"

namespace mose {

// A file of memory without a place in any directory, as memfd_create() makes it (`name` stands in /proc/PID/fd as
// "/NAME"), on a tmpfs of its own that uses huge pages: the system's setting for shared memory, usually "never", does
// not count there. Memory is taken in pieces of 2 MiB then, in a tenth of the time. An error where this kernel or these
// rights have no such tmpfs: memfd_create() does then.
[[nodiscard]] Result<Fd> huge_memory_file(const char* name);

}  // namespace mose
