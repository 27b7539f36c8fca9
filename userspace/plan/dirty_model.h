// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "plan/rounds.h"

// How many different pages a workload writes in a given time. Pages that are written again are not dirty twice, so that
// the number does not grow with time as a rate would have it: pre-copy that is forecast by a rate never seems to end.
namespace mose::plan {

// D(t) = sum of W_k * (1 - exp(-rate_k * t)) over a fixed ladder of rates, W_k >= 0, sum of W_k <= pages of the
// workload.
//
// If every page is written at a rate of its own, whatever the rates, D has exactly this form: uniform writers, hot and
// cold sets, Zipf and idle memory are all in it, and nothing has to be chosen but how many pages there are at each
// rate. The W_k are fitted by expectation maximisation (the counts as Poisson), from a start that favours no time scale
// (D grows as the square root of t), which is what decides where nothing was observed: one window alone forecasts
// between "all was seen" and "it goes on so". Later windows weigh more, so that a workload may change.
//
// A plain value, for one thread. The first question after an observation fits anew: a millisecond, not to be
// asked while the workload is stopped.
class DirtyModel {
 public:
  // In a window of this length so many different pages were written. Empty windows tell nothing and are left out. At
  // most kWindowsMax are kept, the newest.
  void observe(Nanoseconds window, uint64_t pages);
  // No more than that can ever be dirty; grows and shrinks with the workload.
  void set_pages(uint64_t pages);

  [[nodiscard]] bool known() const { return !windows_.empty(); }
  // Different pages written in that time; nothing without an observation.
  [[nodiscard]] std::optional<double> pages_in(Nanoseconds window) const;
  // The same of a round that sends `pages` at `bits_per_second` (0: no limit that is known) after `scan` of looking for
  // them: how long it takes, and what it leaves to send.
  struct Round {
    Nanoseconds duration{0};
    double residual = 0;
  };
  [[nodiscard]] std::optional<Round> after_round(uint64_t pages, uint64_t bits_per_second, Nanoseconds scan) const;

  static constexpr size_t kWindowsMax = 16;
  // Time constants from 1 ms to 4 minutes in steps of 2: what is faster is dirty in any round, what is slower in none.
  static constexpr size_t kRates = 19;

 private:
  struct Window {
    double seconds, pages;
  };
  static std::array<double, kRates> shares_in(double seconds);
  [[nodiscard]] std::array<double, kRates> fitted() const;

  std::vector<Window> windows_;  // oldest first
  std::optional<double> pages_;
  mutable std::optional<std::array<double, kRates>> weights_;  // fitted when first asked for
};

// What was forecast of one window and what came.
struct ForecastCheck {
  unsigned round = 0;  // the round that sent it; the final scan: the last round + 1
  Nanoseconds window{0};
  uint64_t pages = 0;              // that were dirty
  std::optional<double> forecast;  // by what was known before the window ended
  // (forecast - pages) / pages; nothing without a forecast or pages.
  [[nodiscard]] std::optional<double> error() const;
};

// Follows the rounds of a pre-copy: which window each of them closed, and how well it was forecast.
//
// A page is read once a round, on average in the middle of it: that is when its window begins, and ends the one before.
class RoundForecaster {
 public:
  // Round `round` found `pages` changed; the first sends everything and closes no window. `present`: pages that there
  // are.
  void round(unsigned round, Timestamp start, Timestamp end, uint64_t pages, uint64_t present);
  // The tree has stopped, and so much is left.
  void stopped(Timestamp at, uint64_t pages);
  // Seen from the side, by who counts writes while a window is open.
  void observe(Nanoseconds window, uint64_t pages) { model_.observe(window, pages); }
  // After a round that took `duration`: what is left without and with another one, on a link that carries so many bits
  // per second (0: not known; then only looking takes time). `scan`: a look at every page. Nothing before the second
  // round.
  [[nodiscard]] std::optional<Outlook> outlook(Nanoseconds duration, uint64_t link_bps, Nanoseconds scan) const;
  // Fits now, so that stopped() need not.
  void fit() { (void)model_.pages_in(std::chrono::seconds(1)); }

  [[nodiscard]] const std::vector<ForecastCheck>& checks() const { return checks_; }
  [[nodiscard]] const DirtyModel& model() const { return model_; }

 private:
  void close(unsigned round, Timestamp at, uint64_t pages);

  DirtyModel model_;
  unsigned last_round_ = 0;
  std::optional<Timestamp> opened_;
  std::vector<ForecastCheck> checks_;
};

}  // namespace mose::plan
