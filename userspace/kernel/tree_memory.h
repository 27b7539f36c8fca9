// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/result.h"
#include "kernel/cgroup.h"

namespace mose {

// Gives back the private memory of frozen processes that are to be killed and nothing else: a piece at a time, as many pages as a few
// milliseconds take, and as long a pause behind each. The kernel frees what a process had when it ends at one go, and a hypervisor with
// page tables of its own lets no other thread on that processor meanwhile: 4 GiB, 130 ms, of which others on the same machine notice
// up to 10 ms then.
//
// Pages; fewer than are there where `bound` comes first or nobody in a process can do it (StoppedTree): they go with the kill. An error:
// the processes may have been killed already. Those that were stopped by a signal are so again.
// `least`: processes with less memory, by about so much, are left alone: it is not worth the stops.
inline constexpr uint64_t kGiveBackBytesMin = uint64_t{256} << 20;
[[nodiscard]] Result<uint64_t> give_memory_back(const Cgroup& group, Nanoseconds bound, uint64_t least = kGiveBackBytesMin);

}  // namespace mose
