// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "agent/control_client.h"
#include "base/clock.h"
#include "mose/command_line.h"

namespace mose::cli {

// How a verb ended: its exit code, and what to say on standard error.
struct Ended {
  int exit_code = 0;
  std::string reason;
};
using Answered = std::expected<void, Ended>;

inline constexpr int kExitUnreachable = 6;
inline constexpr Nanoseconds kConnectBound = std::chrono::seconds(2);
inline constexpr Nanoseconds kAnswerBound = std::chrono::seconds(30);

// Connects to the command's agent or says why not.
[[nodiscard]] std::expected<agent::ControlClient, Ended> connect(const Command& command);
// One request and its last answer; a Failure of the agent and a lost agent become Ended.
[[nodiscard]] Answered ask(const Command& command, control::v1::Request& request, control::v1::Response& response,
                           Nanoseconds bound = kAnswerBound);
[[nodiscard]] std::unexpected<Ended> lost(const Error& error);

// Prints the reason (and with --json an error object on standard output); gives the exit code.
int report(const Command& command, const Ended& ended);

// Every verb that talks to an agent, and `config check`. The lab is not in here.
int run_verb(const Command& command);
int run_migrate(const Command& command);
int run_pki(const Command& command);
int run_recover(const Command& command);

}  // namespace mose::cli
