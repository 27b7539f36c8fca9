// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

// How long a client went without answers. Pure functions of the times at which answers arrived.
//
// Service interruption: on a probe connection, which sends one request each millisecond whether answered or not, the
// longest gap between answers around the handover minus the p99 gap of the five seconds before; the worst of several
// connections counts. A gap is around the handover when any part of it lies in the window that the caller names.
namespace mose::client {

inline constexpr int64_t kQuietNs = 5'000'000'000;   // the time before the window that says what is normal
inline constexpr size_t kQuietGapsMin = 100;         // fewer say nothing about a p99

struct Window {
  int64_t begin_ns = 0, end_ns = 0;

  [[nodiscard]] int64_t length_ns() const { return end_ns - begin_ns; }
  bool operator==(const Window&) const = default;
};

// All times are of one clock and ascending.
// Longest gap that touches the window, the first of several; absent when no answer came before it or none after its end: a gap without an end
// has no length.
[[nodiscard]] std::optional<Window> longest_gap(std::span<const int64_t> answers, Window window);
// p99 of the gaps in the five seconds before the window; absent with fewer than kQuietGapsMin of them.
[[nodiscard]] std::optional<int64_t> quiet_gap_p99(std::span<const int64_t> answers, Window window);
// The definition above for one connection; never negative.
[[nodiscard]] std::optional<int64_t> interruption(std::span<const int64_t> answers, Window window);

// Value at rank ceil(q * n) of `values`, which it reorders; absent when there are none.
template <typename T>
[[nodiscard]] std::optional<T> quantile(std::vector<T>& values, double q);
extern template std::optional<int64_t> quantile(std::vector<int64_t>&, double);
extern template std::optional<uint32_t> quantile(std::vector<uint32_t>&, double);
extern template std::optional<double> quantile(std::vector<double>&, double);

}  // namespace mose::client
