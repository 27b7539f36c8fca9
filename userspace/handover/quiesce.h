// SPDX-License-Identifier: MIT
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "kernel/listen_queues.h"

// Connections in listen queues cannot be moved: before everything is held, new requests are
// (WorkloadNetwork::hold_new), and what has begun to connect is let in by the running workload.
namespace mose::handover {

// A workload that serves at all accepts within that time. New connections wait this much longer at worst, established
// ones not at all.
inline constexpr Nanoseconds kQuiesceMax = std::chrono::milliseconds(60);

// With new requests held: returns as soon as nothing waits, or what still waits when `bound` is over. One look when
// nothing waits.
[[nodiscard]] Result<WaitingConnections> quiesce(const ListenQueues& queues, Nanoseconds bound = kQuiesceMax);

}  // namespace mose::handover
