// SPDX-License-Identifier: MIT
#include "plan/dirty_model.h"

#include <algorithm>
#include <cmath>

#include "model/page_set.h"

namespace mose::plan {
namespace {

constexpr double kFastest = 1024;  // per second
// Of each older window against the next one: about three of them decide.
constexpr double kForget = 0.7;
// From the end of the last round to the freeze: the dump is asked for, unless that was done beside the round, new connections are held,
// listen queues run dry.
constexpr Nanoseconds kToFreeze = std::chrono::milliseconds(25);
// Expectation maximisation alone is slow, and what is missed shows beyond the longest window: 46 % too much at three times that
// after 400 iterations. 10 000 cost the round that waits for the forecast 5 ms, and 13 beside a busy workload; 400 that are
// extrapolated go as far in a sixth of that.
constexpr int kExtrapolations = 400;
constexpr double kGainNone = 1e-9;

double seconds_of(Nanoseconds time) {
  return static_cast<double>(time.count()) / 1e9;
}

double dot(const auto& a, const auto& b) {
  double sum = 0;
  for (size_t k = 0; k < a.size(); ++k) sum += a[k] * b[k];
  return sum;
}

}  // namespace

// Of the pages that are written at each rate, the share that is written within the time.
std::array<double, DirtyModel::kRates> DirtyModel::shares_in(double seconds) {
  std::array<double, kRates> shares{};
  double rate = kFastest;
  for (double& share : shares) {
    share = -std::expm1(-rate * seconds);
    rate /= 2;
  }
  return shares;
}

void DirtyModel::observe(Nanoseconds window, uint64_t pages) {
  if (window.count() <= 0) return;
  if (windows_.size() == kWindowsMax) windows_.erase(windows_.begin());
  windows_.push_back({seconds_of(window), static_cast<double>(pages)});
  weights_.reset();
}

void DirtyModel::set_pages(uint64_t pages) {
  pages_ = static_cast<double>(pages);
  weights_.reset();
}

namespace {

// One fit: a step of expectation maximisation, which never makes the observations less likely, and how likely they are.
class Fit {
 public:
  static constexpr size_t kRates = DirtyModel::kRates;
  using Weights = std::array<double, kRates>;

  explicit Fit(std::optional<double> pages) : pages_(pages) {}

  void add(const Weights& shares, double pages, double weight) {
    rows_.push_back({shares, pages, weight});
    for (size_t k = 0; k < kRates; ++k) expected_[k] += weight * shares[k];
  }

  [[nodiscard]] Weights step(Weights weights) const {
    Weights explained{};
    for (const Row& row : rows_) {
      const double factor = row.weight * row.pages / std::max(dot(weights, row.shares), 1e-9);
      for (size_t k = 0; k < kRates; ++k) explained[k] += row.shares[k] * factor;
    }
    const double toll = toll_of(weights, explained);
    for (size_t k = 0; k < kRates; ++k) weights[k] *= explained[k] / (expected_[k] + toll);
    return weights;
  }

  // Of Poisson counts, but for what the weights do not change.
  [[nodiscard]] double likelihood(const Weights& weights) const {
    double sum = 0;
    for (const Row& row : rows_) {
      const double predicted = std::max(dot(weights, row.shares), 1e-9);
      sum += row.weight * (row.pages * std::log(predicted) - predicted);
    }
    return sum;
  }

 private:
  struct Row {
    Weights shares;
    double pages, weight;
  };

  // More pages than there are: the multiplier of that bound, by Newton's method, which never oversteps because the
  // total is convex in it.
  [[nodiscard]] double toll_of(const Weights& weights, const Weights& explained) const {
    double toll = 0;
    for (int step = 0; pages_ && step < 50; ++step) {
      double total = 0, slope = 0;
      for (size_t k = 0; k < kRates; ++k) {
        const double share = weights[k] * explained[k] / (expected_[k] + toll);
        total += share;
        slope += share / (expected_[k] + toll);
      }
      if (total <= *pages_ * (1 + 1e-6) || slope == 0) break;
      toll += (total - *pages_) / slope;
    }
    return toll;
  }

  std::optional<double> pages_;
  std::vector<Row> rows_;
  Weights expected_{};  // the denominator: the same in every step
};

// Two steps, and on in their direction as far as the second was shorter than the first (squared extrapolation). What would
// fall below nothing keeps a little, from which it can come back.
Fit::Weights extrapolate(const Fit::Weights& from, const Fit::Weights& one, const Fit::Weights& two) {
  Fit::Weights first{}, change{};
  for (size_t k = 0; k < from.size(); ++k) {
    first[k] = one[k] - from[k];
    change[k] = two[k] - one[k] - first[k];
  }
  const double length = dot(change, change);
  const double far = length == 0 ? 1 : std::max(1.0, std::sqrt(dot(first, first) / length));
  Fit::Weights out{};
  for (size_t k = 0; k < from.size(); ++k) out[k] = std::max(from[k] + 2 * far * first[k] + far * far * change[k], 0.1 * two[k]);
  return out;
}

}  // namespace

std::array<double, DirtyModel::kRates> DirtyModel::fitted() const {
  Fit fit(pages_);
  double weight = 1;
  for (auto window = windows_.rbegin(); window != windows_.rend(); ++window) {
    fit.add(shares_in(window->seconds), window->pages, weight);
    weight *= kForget;
  }
  std::array<double, kRates> weights;
  // As many pages at a rate as make D grow with the square root of time. The scale goes with the first step.
  for (size_t k = 0; k < kRates; ++k) weights[k] = std::exp2(static_cast<double>(k) / 2);
  weights = fit.step(weights);
  for (int i = 0; i < kExtrapolations; ++i) {
    const auto one = fit.step(weights), two = fit.step(one);
    // There: what is left of a step is rounding, and to go on in its direction would lead anywhere.
    if (fit.likelihood(two) - fit.likelihood(weights) < kGainNone) return two;
    const auto further = fit.step(extrapolate(weights, one, two));
    // Too far: what was certain.
    weights = fit.likelihood(further) >= fit.likelihood(two) ? further : two;
  }
  return weights;
}

std::optional<double> DirtyModel::pages_in(Nanoseconds window) const {
  if (!known()) return std::nullopt;
  if (window.count() <= 0) return 0;
  if (!weights_) weights_ = fitted();
  return dot(*weights_, shares_in(seconds_of(window)));
}

std::optional<DirtyModel::Round> DirtyModel::after_round(uint64_t pages, uint64_t bits_per_second,
                                                         Nanoseconds scan) const {
  Round round{.duration = scan};
  if (bits_per_second != 0) {
    const double seconds = static_cast<double>(pages * kPageBits) / static_cast<double>(bits_per_second);
    round.duration += Nanoseconds(static_cast<int64_t>(seconds * 1e9));
  }
  auto residual = pages_in(round.duration);
  if (!residual) return std::nullopt;
  round.residual = *residual;
  return round;
}

std::optional<Outlook> RoundForecaster::outlook(Nanoseconds duration, uint64_t link_bps, Nanoseconds scan) const {
  if (!model_.known()) return std::nullopt;
  Outlook out;
  out.written_per_second = model_.pages_in(std::chrono::seconds(1)).value_or(0);
  // From the middle of a round to the freeze: the other half of it, and what is done before the workload stands still.
  out.left_now = model_.pages_in(duration / 2 + kToFreeze).value_or(0);
  // How long the next round takes depends on what is written until its middle, and that on how long it takes.
  Nanoseconds next = duration;
  for (int i = 0; i < 8; ++i) {
    out.next_pages = model_.pages_in(duration / 2 + next / 2).value_or(0);
    auto round = model_.after_round(static_cast<uint64_t>(out.next_pages), link_bps, scan);
    if (!round) return std::nullopt;
    next = round->duration;
  }
  out.left_next = model_.pages_in(next / 2 + kToFreeze).value_or(0);
  return out;
}

std::optional<double> ForecastCheck::error() const {
  if (!forecast || pages == 0) return std::nullopt;
  return (*forecast - static_cast<double>(pages)) / static_cast<double>(pages);
}

void RoundForecaster::close(unsigned round, Timestamp at, uint64_t pages) {
  if (!opened_ || at <= *opened_) return;
  const Nanoseconds window = at - *opened_;
  checks_.push_back({round, window, pages, model_.pages_in(window)});
  model_.observe(window, pages);
}

void RoundForecaster::round(unsigned round, Timestamp start, Timestamp end, uint64_t pages, uint64_t present) {
  const Timestamp middle = start + (end - start) / 2;
  model_.set_pages(present);
  close(round, middle, pages);
  opened_ = middle;
  last_round_ = round;
}

void RoundForecaster::stopped(Timestamp at, uint64_t pages) {
  close(last_round_ + 1, at, pages);
  opened_.reset();
}

}  // namespace mose::plan
