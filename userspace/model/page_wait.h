// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "model/page_set.h"

// What a workload that runs before its memory is complete stands still for. Times are CLOCK_MONOTONIC in microseconds.
namespace mose {

inline constexpr size_t kWaitingPagesMax = 8;  // that are told by their address: the ones waited for longest

struct WaitingPage {
  SpaceId space = 0;  // the process, as it knows itself
  uint64_t page = 0;
  int64_t since_us = 0;
};

struct PageWaits {
  uint64_t faults = 0;              // threads that stand still, or nearly so: two may wait for one page
  std::vector<WaitingPage> oldest;  // the longest first

  void add(const WaitingPage& page) {
    ++faults;
    auto at = std::ranges::upper_bound(oldest, page.since_us, {}, &WaitingPage::since_us);
    oldest.insert(at, page);
    if (oldest.size() > kWaitingPagesMax) oldest.pop_back();
  }
  // 0: nobody waits.
  [[nodiscard]] int64_t since_us() const { return oldest.empty() ? 0 : oldest.front().since_us; }
};

// What keeps pages from coming, once a stream has failed and until one brings a page again.
struct SourceTrouble {
  std::string reason;  // of the last failure; empty: none
  int64_t since_us = 0;
};

}  // namespace mose
