// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

// The service manager's readiness protocol: one datagram of "NAME=VALUE" lines to the socket named by NOTIFY_SOCKET.
namespace mose::agent {

// Nothing happens (and that is no failure) when NOTIFY_SOCKET is not set.
[[nodiscard]] Status notify_manager(std::string_view state);
// How often "WATCHDOG=1" is due: half of WATCHDOG_USEC, when the manager wants it of this process.
[[nodiscard]] std::optional<Nanoseconds> watchdog_period();

}  // namespace mose::agent
