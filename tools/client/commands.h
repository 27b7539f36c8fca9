// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"
#include "client/load_client.h"

// The client as a process of its own in the client's network namespace, steered by lines on a descriptor:
//   fill | start | pause | resume | begin | end | verify | quit
// Each line gets one line of JSON: {"ok":true, ...} or {"ok":false,"error":"..."}. The end of the input ends the client.
namespace mose::client {

[[nodiscard]] Status serve(LoadClient& client, int in_fd, int out_fd);

// The answers to `end` and `verify`, in both directions.
[[nodiscard]] std::string to_json(const Figures& figures);
[[nodiscard]] std::string to_json(const Verification& verification);
// The error that an answer holds, if it is one.
[[nodiscard]] Status check_answer(const std::string& line);
[[nodiscard]] Result<Figures> figures_from_json(const std::string& line);
[[nodiscard]] Result<Verification> verification_from_json(const std::string& line);

}  // namespace mose::client
