// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

namespace mose {

// Memory of a process that may be written without passing its page tables: a device or a kernel thread holds the pages
// themselves (io_uring and asynchronous I/O, files open for direct I/O, AF_XDP, character devices that map or pin). A
// write that was begun before tracking leaves no trace in it. What pins, in words, or nothing; the descriptors of a
// process that cannot be read count as pinning.
[[nodiscard]] std::optional<std::string> pinned_memory(pid_t pid);

}  // namespace mose
