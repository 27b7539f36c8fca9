// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "base/result.h"
#include "kernel/process.h"

namespace mose {

// A tree whose TCP sockets are in repair mode sends neither FIN nor RST when it is killed. A CRIU that was killed while it dumped one
// may have left it in that mode: a source that is to go on must leave it first. Works on frozen processes, through
// duplicates of their sockets which are closed at once.
struct RepairCount {
  unsigned tcp_sockets = 0;  // TCP sockets seen; one that several descriptors share counts each time
  unsigned changed = 0;
  unsigned failed = 0;       // could not be switched (a socket in a state without repair is not a failure)
};
// Switches repair mode for all TCP sockets of these processes that are not in the wanted mode. Leaving it lets each
// connection send a window probe: open the way out first. Listening sockets are left alone, and nothing enters it that is
// not connected: that one sends nothing, and would lose SO_REUSEADDR.
[[nodiscard]] Result<RepairCount> set_tcp_repair(const std::vector<ProcessHandle>& processes, bool on);

}  // namespace mose
