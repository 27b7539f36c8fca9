// SPDX-License-Identifier: MIT
#include "client/interruption.h"

#include <algorithm>
#include <cmath>

namespace mose::client {

template <typename T>
std::optional<T> quantile(std::vector<T>& values, double q) {
  if (values.empty()) return std::nullopt;
  double rank = std::ceil(q * static_cast<double>(values.size()));
  size_t index = rank < 1.0 ? 0 : std::min(values.size(), static_cast<size_t>(rank)) - 1;
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(index), values.end());
  return values[index];
}
template std::optional<int64_t> quantile(std::vector<int64_t>&, double);
template std::optional<uint32_t> quantile(std::vector<uint32_t>&, double);
template std::optional<double> quantile(std::vector<double>&, double);

std::optional<Window> longest_gap(std::span<const int64_t> answers, Window window) {
  auto after = std::upper_bound(answers.begin(), answers.end(), window.begin_ns);
  if (after == answers.begin() || after == answers.end()) return std::nullopt;
  Window longest;
  for (auto it = after; it != answers.end(); ++it) {
    Window gap{*(it - 1), *it};
    if (gap.length_ns() > longest.length_ns()) longest = gap;
    if (*it >= window.end_ns) return longest;
  }
  return std::nullopt;
}

std::optional<int64_t> quiet_gap_p99(std::span<const int64_t> answers, Window window) {
  auto first = std::lower_bound(answers.begin(), answers.end(), window.begin_ns - kQuietNs);
  auto last = std::upper_bound(answers.begin(), answers.end(), window.begin_ns);
  std::vector<int64_t> gaps;
  for (auto it = first; it != last; ++it) {
    if (it != first) gaps.push_back(*it - *(it - 1));
  }
  if (gaps.size() < kQuietGapsMin) return std::nullopt;
  return quantile(gaps, 0.99);
}

std::optional<int64_t> interruption(std::span<const int64_t> answers, Window window) {
  auto gap = longest_gap(answers, window);
  auto quiet = quiet_gap_p99(answers, window);
  if (!gap || !quiet) return std::nullopt;
  return std::max<int64_t>(0, gap->length_ns() - *quiet);
}

}  // namespace mose::client
