// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "sim/simulation.h"

// MOSE_SIM_SEEDS: how many seeds (2000); MOSE_SIM_SEED: this one alone, with its trace.
namespace mose::sim {
namespace {

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

TEST(PlanSimulation, ExactlyOneSideRunsTheWorkloadWhateverBreaks) {
  uint64_t only = from_environment("MOSE_SIM_SEED", 0);
  uint64_t seeds = from_environment("MOSE_SIM_SEEDS", 2000);
  std::map<std::string, unsigned> outcomes;
  std::set<std::string> source_crashes, destination_crashes;
  unsigned told = 0;
  for (uint64_t seed = only ? only : 1; seed <= (only ? only : seeds); ++seed) {
    Verdicts run = simulate(seed);
    if (!run.violation.empty() || only) {
      Verdicts again = simulate(seed, {}, true);
      std::string text = joined(again.trace);
      ASSERT_EQ(run.violation, again.violation) << "seed " << seed << " is not reproducible";
      if (only) std::printf("%s", text.c_str());
      ASSERT_EQ(run.violation, "") << "MOSE_SIM_SEED=" << seed << "\n" << (only ? "" : text);
    }
    ++outcomes[run.known ? std::string(to_string(run.outcome)) : "never begun"];
    told += run.told_to_recover;
    for (auto phase : run.source_crashes) source_crashes.insert(plan::to_string(phase));
    for (auto phase : run.destination_crashes) destination_crashes.insert(plan::to_string(phase));
  }
  for (auto& [name, count] : outcomes) std::printf("%-20s %u\n", name.c_str(), count);
  std::printf("%-20s %u\n", "told to recover", told);
  if (only || seeds < 2000) return;
  // The seeds reach what they are meant to reach.
  for (const char* outcome : {"complete", "failed", "cancelled", "refused"})
    EXPECT_GT(outcomes[outcome], 50u) << outcome;
  EXPECT_GT(told, 5u);
  EXPECT_EQ(source_crashes.size(), 15u) << "an agent of the source dies in every phase, not only in: "
                                        << testing::PrintToString(source_crashes);
  EXPECT_EQ(destination_crashes.size(), 9u) << "an agent of the destination dies in every phase, not only in: "
                                            << testing::PrintToString(destination_crashes);
}

TEST(PlanSimulation, TheSameSeedGivesTheSameTrace) {
  EXPECT_EQ(simulate(7, {}, true).trace, simulate(7, {}, true).trace);
  EXPECT_NE(simulate(7, {}, true).trace, simulate(8, {}, true).trace);
}

}  // namespace
}  // namespace mose::sim
