// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

// Frames between a virtual device and the network stack. A frame sent through a veth pair waits in a queue of the
// sending CPU until that CPU's soft interrupt takes it: microseconds, or some milliseconds on a busy machine. It has passed the TC
// programs already, so holding does not stop it.
namespace mose {

// Frames that wait, by CPU, from a text of /proc/net/softnet_stat. An error where the kernel does not say (before 5.10).
[[nodiscard]] Result<std::vector<unsigned>> parse_receive_backlog(std::string_view text);

// Until the queue of every CPU has been seen empty once: what was in one when this was called has been taken out. False:
// not within `bound`.
[[nodiscard]] Result<bool> wait_receive_backlog(Nanoseconds bound);

}  // namespace mose
