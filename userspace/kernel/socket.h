// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

// TCP sockets between nodes. Endpoints are texts "192.0.2.1:7946" or "[2001:db8::1]:7946"; names are not resolved.
namespace mose {

// Whether tcp_connect and tcp_listen can read the text; the error says what they want.
[[nodiscard]] Status check_endpoint(const std::string& endpoint);
// Blocks at most `bound`; the error names the endpoint. The socket is blocking and tuned.
[[nodiscard]] Result<Fd> tcp_connect(const std::string& endpoint, Nanoseconds bound);
// Listening, non-blocking, close-on-exec, SO_REUSEADDR. Port 0: any (local_endpoint tells).
[[nodiscard]] Result<Fd> tcp_listen(const std::string& endpoint, int backlog = 64);
// One waiting connection, tuned; non-blocking when asked. An invalid Fd when none waits.
struct Accepted {
  Fd socket;
  std::string peer;
};
[[nodiscard]] Result<Accepted> tcp_accept(int listener, bool non_blocking);
[[nodiscard]] Result<std::string> local_endpoint(int socket);
// "192.0.2.1" of "192.0.2.1:7946"; an address of IPv6 keeps its brackets.
[[nodiscard]] std::string host_of(const std::string& endpoint);
[[nodiscard]] Status set_blocking(int socket, bool blocking);
// Bytes that were written and that the peer's kernel has not acknowledged yet.
[[nodiscard]] Result<size_t> unacknowledged_bytes(int socket);
// What has left this host and was not acknowledged yet. More may wait here for room at the peer, which is asked for it in intervals.
struct Unanswered {
  bool data = false;
  bool room = false;  // more than once
};
[[nodiscard]] Result<Unanswered> unanswered(int socket);

// Smoothed, as TCP measures it.
[[nodiscard]] Result<Nanoseconds> round_trip_time(int socket);

// No delay, cubic (this matters: bbr is 2.5 times slower between nodes of one rack), keepalive, an end to unacknowledged
// data after kUserTimeout. Best effort where an option is missing.
inline constexpr Nanoseconds kUserTimeout = std::chrono::seconds(10);
[[nodiscard]] Status tune_migration_socket(int socket);
// At most this much unsent data waits in the kernel, so that later frames are decided late (bulk against urgent).
[[nodiscard]] Status set_unsent_max(int socket, unsigned bytes);

}  // namespace mose
