// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/core.h"
#include "agent/migration_service.h"
#include "move/hello.h"
#include "restore/criu_setup.h"

namespace mose::agent {

inline constexpr const char* kCriuBeingPrepared = "CRIU is still being prepared: try again in a moment";

// What every migration of this agent shares; outlives them all.
struct MigrationContext {
  Core& core;
  // Null until CRIU has been prepared and proven at start, or with the reason why it cannot be used.
  std::shared_ptr<const restore::CriuSetup> criu;
  std::string criu_problem = kCriuBeingPrepared;
  bool skip_memory = true;  // the canary has shown that a dump without memory works
  move::Hello hello;        // of this node; purpose and token are set per connection
  std::function<void(const MigrationProgress&)> progress;
};

}  // namespace mose::agent
