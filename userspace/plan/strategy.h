// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "model/migration.h"
#include "plan/rounds.h"

// What the strategies promise, and how `auto` chooses one of them. Pure.
//
//   cold      nothing is sent before the freeze, everything is at the destination before it resumes
//   precopy   rounds until little is left, everything is at the destination before it resumes
//   postcopy  no rounds, the pages follow the workload
//   hybrid    rounds, what is left follows the workload
//   auto      hybrid within a bound: the commit waits until no more than the bound is left, because a workload whose
//             pages lie on two nodes is lost with either of them
namespace mose::plan {

// Sends memory while the workload still runs.
[[nodiscard]] bool precopies(Strategy strategy);
// READY comes only when every page is in.
[[nodiscard]] bool memory_first(Strategy strategy);

// 64 MiB, and one second of the link where it is known: what `auto` leaves at the source with the commit.
inline constexpr uint64_t kBoundPages = (64ull << 20) / 4096;
inline constexpr Nanoseconds kBoundTime = std::chrono::seconds(1);
// What of a link is taken for granted before anything was sent on it.
inline constexpr uint64_t kSlowLinkBps = 10'000'000;

// Pages that may be at the source when the workload is committed to the destination; nothing: any number (what a
// strategy that brings memory first leaves is seen to by the destination).
[[nodiscard]] std::optional<uint64_t> pages_left_max(Strategy requested, uint64_t link_bps);

// How long so many pages take on the link; by kSlowLinkBps where it is not known.
[[nodiscard]] Nanoseconds time_to_send(uint64_t pages, uint64_t link_bps);

// What is done, and why: a sentence for the operator.
struct StrategyChoice {
  Strategy strategy = Strategy::hybrid;
  std::string reason;
};
// Before anything was sent.
[[nodiscard]] StrategyChoice choose_strategy(Strategy requested);
// Once the rounds have ended, and with what.
[[nodiscard]] StrategyChoice choose_strategy(Strategy requested, const RoundFacts& last, RoundVerdict verdict);

// "pre-copy does not converge: the workload is slowed down by 20 %"
[[nodiscard]] std::string explain_slowdown(unsigned percent);

// How the rounds ended: "another round would leave as much: ..."
[[nodiscard]] std::string explain(const RoundFacts& last, RoundVerdict verdict);

}  // namespace mose::plan
