// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "client/interruption.h"

// The load by phases of a move: how fast and how well it was served before, while memory was copied, across the
// switchover and after it. Pure functions of what was recorded.
namespace mose::client {

// One answered request of the load.
struct LoadSample {
  int64_t due_ns = 0;  // when it was, or should have been, sent
  uint32_t latency_us = 0;
};

// When a move was where, on the monotonic clock; 0: not known, and then there is no such phase.
struct PhaseBounds {
  int64_t precopy_ns = 0;   // begins to copy
  int64_t handover_ns = 0;  // stops the server
  int64_t resumed_ns = 0;   // the other place serves, and nothing waits for it any more
};

struct PhaseFigures {
  double seconds = 0;
  uint64_t requests = 0;     // due in the phase and answered, whenever that was
  double answers_per_s = 0;  // that came in the phase
  std::optional<double> latency_p50_us, latency_p99_us, latency_p999_us, latency_max_us;
  std::optional<double> server_cpu_us;   // of the server's process per answer
  std::optional<double> longest_gap_ms;  // of the probes, any part of it in the phase; the worst connection's
};

// The first second at the other place; how long a window is beyond it says nothing of the move.
inline constexpr Nanoseconds kAfter = std::chrono::seconds(1);
enum class Phase : uint8_t { before, precopy, handover, after };
inline constexpr std::array<const char*, 4> kPhaseNames = {"before", "precopy", "handover", "after"};
using Phases = std::array<std::optional<PhaseFigures>, kPhaseNames.size()>;

// `before_ns`: where the quiet time before the window begins.
[[nodiscard]] std::array<std::optional<Window>, kPhaseNames.size()> phase_windows(Window window, int64_t before_ns,
                                                                                  const PhaseBounds& bounds);
[[nodiscard]] PhaseFigures phase_figures(std::span<const LoadSample> samples, Window phase);
// The phase in which most of the gap lies; what begins after the switchover is `after`, however late. Absent: none of them.
[[nodiscard]] std::optional<Phase> phase_of(Window gap, const PhaseBounds& bounds);

}  // namespace mose::client
