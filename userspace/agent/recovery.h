// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/migration.h"
#include "plan/protocol.h"

// What a starting agent makes of the records that it finds, before the planner goes on from them. Pure: the agent and the
// simulation (tests/sim) ask the same.
namespace mose::agent {

// A migration of which nothing is left to be decided or served here: its journal may go.
struct EndedMigration {
  Outcome outcome;     // for the history, where the agent died before it had written it
  std::string reason;  // likewise
  bool left = false;   // source: the workload is away by it, and what it has left here is not needed any more
};

// `ours`: the registry of workloads says that it is being moved by this migration; `alive`: its tree is here; `told`: what the
// history has of it.
[[nodiscard]] std::optional<EndedMigration> ended_source(const std::vector<plan::Record>& records, bool ours, bool alive,
                                                         std::optional<Outcome> told);
[[nodiscard]] std::optional<EndedMigration> ended_destination(const std::vector<plan::Record>& records);

}  // namespace mose::agent
