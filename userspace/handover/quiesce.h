// SPDX-License-Identifier: MIT
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "kernel/listen_queues.h"

// Connections in listen queues cannot be moved: before everything is held, new requests are
// (WorkloadNetwork::hold_new), and what has begun to connect is let in by the running workload.
namespace mose::handover {

// How long half-open connections are waited for: what a client sends to finish its handshake is on its way, or never comes. And
// how long those that the workload has to accept: it may have used up its share of the processor for a period or more of its
// quota (some 100 ms). New connections wait this much longer at worst, established ones not at all.
inline constexpr Nanoseconds kHalfOpenMax = std::chrono::milliseconds(60);
inline constexpr Nanoseconds kAcceptMax = std::chrono::seconds(1);

// With new requests held: returns as soon as nothing waits, or what still waits when its time is over. One look when
// nothing waits.
[[nodiscard]] Result<WaitingConnections> quiesce(const ListenQueues& queues);

}  // namespace mose::handover
