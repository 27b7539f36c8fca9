// SPDX-License-Identifier: MIT
#include "client/phases.h"

#include <algorithm>
#include <utility>

namespace mose::client {

std::array<std::optional<Window>, kPhaseNames.size()> phase_windows(Window window, int64_t before_ns,
                                                                    const PhaseBounds& bounds) {
  auto between = [](int64_t begin, int64_t end) {
    return begin > 0 && end > begin ? std::optional(Window{begin, end}) : std::nullopt;
  };
  return {between(before_ns, window.begin_ns), between(bounds.precopy_ns, bounds.handover_ns),
          between(bounds.handover_ns, bounds.resumed_ns),
          between(bounds.resumed_ns, std::min(window.end_ns, bounds.resumed_ns + kAfter.count()))};
}

PhaseFigures phase_figures(std::span<const LoadSample> samples, Window phase) {
  PhaseFigures out;
  out.seconds = static_cast<double>(phase.end_ns - phase.begin_ns) / 1e9;
  auto within = [&](int64_t at) { return at >= phase.begin_ns && at < phase.end_ns; };
  std::vector<uint32_t> latencies;
  uint64_t answers = 0;
  for (const LoadSample& s : samples) {
    if (within(s.due_ns)) latencies.push_back(s.latency_us);
    if (within(s.due_ns + static_cast<int64_t>(s.latency_us) * 1000)) ++answers;
  }
  out.requests = latencies.size();
  out.answers_per_s = static_cast<double>(answers) / out.seconds;
  auto at = [&](double q) {
    auto v = quantile(latencies, q);
    return v ? std::optional<double>(*v) : std::nullopt;
  };
  out.latency_p50_us = at(0.50);
  out.latency_p99_us = at(0.99);
  out.latency_p999_us = at(0.999);
  out.latency_max_us = at(1.0);
  return out;
}

std::optional<Phase> phase_of(Window gap, const PhaseBounds& bounds) {
  // A move that was broken off has not come to the phases behind.
  const auto overlap = [&](int64_t begin, int64_t end) {
    if (begin <= 0) return int64_t{0};
    return (end > begin ? std::min(gap.end_ns, end) : gap.end_ns) - std::max(gap.begin_ns, begin);
  };
  const std::array<std::pair<Phase, int64_t>, 3> shares = {
      {{Phase::precopy, overlap(bounds.precopy_ns, bounds.handover_ns)},
       {Phase::handover, overlap(bounds.handover_ns, bounds.resumed_ns)},
       {Phase::after, overlap(bounds.resumed_ns, 0)}}};
  const auto most = std::ranges::max_element(shares, {}, &std::pair<Phase, int64_t>::second);
  return most->second > 0 ? std::optional(most->first) : std::nullopt;
}

}  // namespace mose::client
