// SPDX-License-Identifier: MIT
#include "plan/strategy.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"

namespace mose::plan {
namespace {

constexpr uint64_t kPageBytes = 4096;

std::string size_of(double pages) {
  return format_bytes(static_cast<uint64_t>(std::max(pages, 0.0)) * kPageBytes);
}

std::string per_second(uint64_t bits) {
  return format_bytes(bits / 8) + "/s";
}

}  // namespace

bool precopies(Strategy strategy) {
  return strategy != Strategy::cold && strategy != Strategy::postcopy;
}

bool memory_first(Strategy strategy) {
  return strategy == Strategy::cold || strategy == Strategy::precopy;
}

std::optional<uint64_t> pages_left_max(Strategy requested, uint64_t link_bps) {
  if (requested != Strategy::automatic) return std::nullopt;
  if (link_bps == 0) return kBoundPages;
  const auto seconds = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(kBoundTime).count());
  return std::min(kBoundPages, link_bps / 8 * seconds / kPageBytes);
}

Nanoseconds time_to_send(uint64_t pages, uint64_t link_bps) {
  const double bits = static_cast<double>(pages) * kPageBytes * 8;
  const double seconds = bits / static_cast<double>(link_bps == 0 ? kSlowLinkBps : link_bps);
  return Nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

StrategyChoice choose_strategy(Strategy requested) {
  switch (requested) {
    case Strategy::cold:
      return {requested, "asked for: everything is sent while the workload stands still"};
    case Strategy::postcopy:
      return {requested, "asked for: nothing is sent before the workload is restored, its pages follow it"};
    case Strategy::precopy:
    case Strategy::hybrid:
      return {requested, "asked for"};
    case Strategy::automatic:
      break;
  }
  return {Strategy::hybrid, "memory is sent ahead, and what is left follows the workload within a bound"};
}

std::string explain_slowdown(unsigned percent) {
  return fmt::format("pre-copy does not converge: the workload is slowed down by {} %", percent);
}

namespace {

std::string end_of_rounds(const RoundFacts& last, RoundVerdict verdict) {
  const std::string sent = size_of(static_cast<double>(last.pages_sent));
  switch (verdict) {
    case RoundVerdict::another:
      break;
    case RoundVerdict::small:
      return fmt::format("round {} had only {} to send", last.round, sent);
    case RoundVerdict::used_up:
      return fmt::format("{} rounds are as many as may be, the last one sent {}", last.round, sent);
    case RoundVerdict::no_gain:
      return fmt::format("pre-copy does not get further: round {} sent {}, another would leave as much", last.round,
                         sent);
    case RoundVerdict::costly:
      return fmt::format("the final scan is prepared: round {} sent {}, another would cost the workload more than it shortens the stop",
                         last.round, sent);
    case RoundVerdict::outrun:
      return fmt::format(
          "pre-copy does not converge: {}/s of different pages are written, the link carries {}; another "
          "round after number {} would leave as much",
          size_of(last.outlook ? last.outlook->written_per_second : 0), per_second(last.link_bps), last.round);
  }
  return {};
}

}  // namespace

std::string explain(const RoundFacts& last, RoundVerdict verdict) {
  std::string text = end_of_rounds(last, verdict);
  if (last.throttle_percent == 0) return text;
  return fmt::format("{}; the workload was slowed down by up to {} %", text, last.throttle_percent);
}

StrategyChoice choose_strategy(Strategy requested, const RoundFacts& last, RoundVerdict verdict) {
  StrategyChoice choice = choose_strategy(requested);
  const std::string how = explain(last, verdict);
  if (requested == Strategy::precopy) {
    choice.reason = fmt::format("asked for; {}; the rest is sent while the workload stands still", how);
  } else if (requested == Strategy::hybrid) {
    choice.reason = fmt::format("asked for; {}; the rest follows the workload", how);
  }
  if (requested != Strategy::automatic) return choice;
  const uint64_t bound = *pages_left_max(requested, last.link_bps);
  // Of a workload that was slowed down the model knows too little.
  const bool forecast_known = last.outlook && last.throttle_percent == 0;
  const double left = forecast_known ? last.outlook->left_now : static_cast<double>(last.pages_sent);
  const std::string forecast = size_of(left) + (forecast_known ? " are forecast to be left" : " at most are left");
  if (left <= static_cast<double>(bound)) {
    choice.reason = fmt::format("{}; {}, within the bound of {}, and follow the workload", how, forecast,
                                size_of(static_cast<double>(bound)));
  } else {
    choice.reason = fmt::format(
        "{}; {}: the commit waits until no more than {} are left, about {:.1f} s", how, forecast,
        size_of(static_cast<double>(bound)),
        std::chrono::duration<double>(time_to_send(static_cast<uint64_t>(left) - bound, last.link_bps)).count());
  }
  return choice;
}

}  // namespace mose::plan
