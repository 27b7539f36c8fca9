// SPDX-License-Identifier: MIT
// `mose recover`: shown first, then done when the operator agrees.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "agent/recovery_choice.h"
#include "model/migration.h"
#include "mose/control/control.pb.h"
#include "mose/output.h"
#include "mose/session.h"

namespace mose::cli {
namespace {

using control::v1::Request;
using control::v1::Response;

constexpr Nanoseconds kRecoverBound = std::chrono::seconds(90);

// Only the whole word: what follows may end the only instance there is.
bool agrees() {
  fmt::print(stderr, "do it? (yes/no) ");
  std::fflush(stderr);
  std::string answer;
  return std::getline(std::cin, answer) && answer == "yes";
}

}  // namespace

int run_recover(const Command& command) {
  Request request;
  auto& recover = *request.mutable_recover();
  recover.set_migration_id(command.subject);
  if (command.resume_here) recover.set_decision(agent::kWishResume);
  if (command.give_up) recover.set_decision(agent::kWishGiveUp);
  Response shown;
  if (auto answered = ask(command, request, shown, kRecoverBound); !answered) return report(command, answered.error());
  const std::string action = shown.recovery().action();
  const bool refused = action == agent::to_string(agent::RecoveryAction::refuse), asks = shown.recovery().confirm() && !command.yes;
  const bool acts = !command.dry_run && !refused;
  // With --json one object: what was done, or what was not.
  if (!command.json || !acts || asks) fmt::print("{}", show(shown.recovery(), command.json));
  std::fflush(stdout);
  if (command.dry_run) return 0;
  if (refused) {
    fmt::print(stderr, "mose: nothing was done\n");
    return exit_code(Outcome::refused);
  }
  if (asks && (command.json || isatty(STDIN_FILENO) == 0)) {
    fmt::print(stderr, "mose: nothing was done: there is no terminal to ask on; --yes does it without a question\n");
    return exit_code(Outcome::refused);
  }
  if (asks && !agrees()) {
    fmt::print(stderr, "mose: nothing was done\n");
    return exit_code(Outcome::cancelled);
  }
  recover.set_act(true);
  *recover.mutable_shown() = shown.recovery();
  Response done;
  if (auto answered = ask(command, request, done, kRecoverBound); !answered) return report(command, answered.error());
  if (command.json) fmt::print("{}", show(done.recovery(), true));
  else if (done.recovery().confirm()) fmt::print(stderr, "mose: done; see mose status\n");
  return 0;
}

}  // namespace mose::cli
