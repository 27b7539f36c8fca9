// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/result.h"
#include "client/load_client.h"

// The client as a process of its own in the client's network namespace, steered by lines on a descriptor:
//   fill | start | pause | resume | watch PID | begin | end [PRECOPY HANDOVER RESUMED] | verify | quit
// The three of `end` are times of the move (PhaseBounds) in nanoseconds, 0 for one that is not known.
// Each line gets one line of JSON: {"ok":true, ...} or {"ok":false,"error":"..."}. The end of the input ends the
// client.
namespace mose::client {

[[nodiscard]] Status serve(LoadClient& client, int in_fd, int out_fd);

// The answers to `end` and `verify`, in both directions.
[[nodiscard]] std::string to_json(const Figures& figures);
// The parts of it that a report shows as they are; null where nothing was measured.
[[nodiscard]] nlohmann::ordered_json phases_json(const Phases& phases);
// {phase, start_us, end_us}, or null.
[[nodiscard]] nlohmann::ordered_json gap_json(const Figures& figures);
[[nodiscard]] nlohmann::ordered_json tcp_json(const std::optional<TcpCounters>& counters,
                                              std::optional<uint64_t> resets_received = std::nullopt);
[[nodiscard]] std::string to_json(const Verification& verification);
// The error that an answer holds, if it is one.
[[nodiscard]] Status check_answer(const std::string& line);
[[nodiscard]] Result<Figures> figures_from_json(const std::string& line);
[[nodiscard]] Result<Verification> verification_from_json(const std::string& line);

}  // namespace mose::client
