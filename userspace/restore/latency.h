// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include "base/clock.h"

namespace mose::restore {

// Durations in microseconds by order of magnitude: eight steps per power of two, so that a percentile is right to one eighth.
// add() from any thread.
class LatencyHistogram {
 public:
  void add(Nanoseconds duration) {
    auto us = static_cast<uint64_t>(std::max<int64_t>(duration.count(), 0)) / 1000;
    counts_[step_of(us)].fetch_add(1, std::memory_order_relaxed);
    uint64_t seen = max_us_.load(std::memory_order_relaxed);
    while (us > seen && !max_us_.compare_exchange_weak(seen, us, std::memory_order_relaxed)) {
    }
  }
  void reset() {
    for (auto& c : counts_) c.store(0, std::memory_order_relaxed);
    max_us_.store(0, std::memory_order_relaxed);
  }
  // Lower end of the step that holds the value below which `percent` of all lie; 0 without values.
  [[nodiscard]] uint64_t percentile_us(unsigned percent) const {
    uint64_t total = 0;
    for (const auto& c : counts_) total += c.load(std::memory_order_relaxed);
    uint64_t wanted = (total * percent + 99) / 100;
    uint64_t sum = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      sum += counts_[i].load(std::memory_order_relaxed);
      if (wanted != 0 && sum >= wanted) return start_of(i);
    }
    return 0;
  }
  [[nodiscard]] uint64_t max_us() const { return max_us_.load(std::memory_order_relaxed); }

 private:
  static constexpr unsigned kSubBits = 3;
  static constexpr unsigned kSteps = 1u << kSubBits;

  static size_t step_of(uint64_t us) {
    if (us < kSteps) return us;
    unsigned power = static_cast<unsigned>(std::bit_width(us)) - 1;
    return (power - kSubBits + 1) * kSteps + ((us >> (power - kSubBits)) - kSteps);
  }
  static uint64_t start_of(size_t step) {
    if (step < kSteps) return step;
    return (kSteps + step % kSteps) << (step / kSteps - 1);
  }

  std::array<std::atomic<uint64_t>, (64 - kSubBits + 1) * kSteps> counts_{};
  std::atomic<uint64_t> max_us_{0};
};

}  // namespace mose::restore
