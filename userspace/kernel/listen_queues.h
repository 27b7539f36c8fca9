// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "base/result.h"
#include "kernel/sock_diag.h"

namespace mose {

// TCP connections that the kernel has begun or finished for the listening sockets of one network namespace and that no
// program has accepted. They belong to no descriptor, so a dump cannot take them along.
struct WaitingConnections {
  uint32_t half_open = 0;     // the client's last acknowledgement has not come
  uint32_t not_accepted = 0;  // ready, in an accept queue
  uint16_t port = 0;          // of the longest accept queue; 0: all are empty
  uint32_t listeners = 0;

  [[nodiscard]] bool none() const { return half_open == 0 && not_accepted == 0; }
};

// Reads them by sock_diag, from any thread.
//
// Half-open connections are looked for first, accept queues after it: with new requests held, "none" therefore means
// that there are none, and not that one was just on its way from the one to the other.
class ListenQueues {
 public:
  [[nodiscard]] static Result<ListenQueues> open(int netns);
  // Walks the kernel's table of connections once per family that has a listener: under a millisecond on a small host.
  [[nodiscard]] Result<WaitingConnections> read() const;

 private:
  explicit ListenQueues(SockDiag sockets) : sockets_(std::move(sockets)) {}
  SockDiag sockets_;
};

}  // namespace mose
