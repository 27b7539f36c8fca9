// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "sim/simulation.h"

// The simulation is worth what it can find. Each mutation plants one bug that a planner, an executor, a journal or the world
// could have, and demands that some seed of the default run ends in a broken invariant.
namespace mose::sim {

inline constexpr uint64_t kSeeds = 2000;

// Some seed of the default run ends in this violation.
inline testing::AssertionResult found(const Hooks& bug, std::string_view violation, uint64_t seeds = kSeeds) {
  std::string others;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    Verdicts run = simulate(seed, bug);
    if (run.violation.find(violation) != std::string::npos) {
      std::printf("found by seed %llu\n", static_cast<unsigned long long>(seed));
      return testing::AssertionSuccess();
    }
    if (!run.violation.empty() && others.empty()) others = "; but seed " + std::to_string(seed) + ": " + run.violation;
  }
  return testing::AssertionFailure() << "no seed found \"" << violation << "\"" << others;
}

}  // namespace mose::sim
