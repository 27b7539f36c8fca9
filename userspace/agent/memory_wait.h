// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "model/page_wait.h"

// A workload that runs at its destination before its memory is complete, as its operator reads of it: what is missing, what it
// stands still for, what keeps the rest from coming, and what can be done.
namespace mose::agent {

struct MemoryWait {
  uint64_t missing_pages = 0;  // that only the source has
  uint64_t pages = 0;          // that the workload had when it was frozen
  PageWaits waits;
  SourceTrouble trouble;
};

// A page comes within milliseconds, and a connection that was lost within a second: what takes longer should be looked at.
inline constexpr Nanoseconds kWaitAlarm = std::chrono::seconds(1);
[[nodiscard]] bool alarming(const MemoryWait& wait, Timestamp now);

// Of a time of CLOCK_MONOTONIC in microseconds.
[[nodiscard]] int64_t to_unix_ms(int64_t monotonic_us);

// "300 of 5000 pages (1.2 MiB of 19.5 MiB) of redis are only at node a"
[[nodiscard]] std::string what_is_missing(const MemoryWait& wait, const std::string& workload, const std::string& source);
// One sentence after the other; the same as long as nothing changes but the time that passes.
[[nodiscard]] std::string explain(const MemoryWait& wait, const std::string& workload, const std::string& source);

}  // namespace mose::agent
