// SPDX-License-Identifier: MIT
#pragma once

#include <time.h>

#include <chrono>
#include <cstdint>

namespace mose {

// Time is CLOCK_MONOTONIC in nanoseconds since boot, the same clock as bpf_ktime_get_ns, so that stamps of the kernel
// and of the agents of one machine compare.
using Nanoseconds = std::chrono::nanoseconds;
inline constexpr uint64_t kNsPerSecond = 1'000'000'000;
using Timestamp = std::chrono::time_point<std::chrono::steady_clock, Nanoseconds>;

inline Timestamp now() { return std::chrono::time_point_cast<Nanoseconds>(std::chrono::steady_clock::now()); }
inline timespec to_timespec(int64_t ns) {
  constexpr auto second = static_cast<int64_t>(kNsPerSecond);
  return {ns / second, ns % second};
}
inline int64_t now_ns() { return now().time_since_epoch().count(); }
inline int64_t to_us(Timestamp t) {
  return std::chrono::duration_cast<std::chrono::microseconds>(t.time_since_epoch()).count();
}
// The wall clock, only for people and records; nothing is decided by it.
inline int64_t unix_now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}
inline double to_ms(Nanoseconds d) { return static_cast<double>(d.count()) / 1e6; }

}  // namespace mose
