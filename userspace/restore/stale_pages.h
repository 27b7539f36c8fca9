// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/page_set.h"

namespace mose::restore {

// Pages of one process of a standby that were written at the source since they were put in. Runs ascend.
struct StalePages {
  SpaceId space = 0;
  std::vector<PageRun> runs;
  int descriptor = -1;  // of its userfaultfd, in the table that pager and guardian share; -1: not told
  bool operator==(const StalePages&) const = default;
};

[[nodiscard]] inline uint64_t count_pages(std::span<const StalePages> pages) {
  uint64_t count = 0;
  for (const StalePages& one : pages)
    for (const PageRun& run : one.runs) count += run.count;
  return count;
}

}  // namespace mose::restore
