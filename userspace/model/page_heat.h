// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/page_set.h"

namespace mose {

// Which pages of an address space are written most often, for who orders pages by it: a hint, nothing depends on it.
struct SpaceHeat {
  SpaceId space = 0;
  std::vector<PageSet> levels;  // hottest first, disjoint, none empty
};

// Pages of one space by the pre-copy rounds in which they were found written: a shift register of the last kRounds for
// each, so that what has cooled down is forgotten without a clock. Bounded: of more than kStretchesMax stretches the
// coolest are forgotten. A round costs one pass over the stretches.
class PageHeat {
 public:
  static constexpr int kRounds = 8;
  static constexpr size_t kStretchesMax = size_t{1} << 18;  // 6 MiB
  // Levels at most: what was found in rounds and what else was seen, kRounds of each.
  static constexpr size_t kLevelsMax = 2 * kRounds;

  // Neighbouring pages that are alike.
  struct Stretch {
    PageRun pages;
    uint8_t rounds = 0;  // a bit for each, the last one lowest
  };

  void next_round(const PageSet& written);
  // By the number of rounds, and of those of `seen`: other sightings of writes, ascending and disjoint.
  [[nodiscard]] std::vector<PageSet> levels(std::span<const Stretch> seen = {}) const;

 private:
  std::vector<Stretch> stretches_;  // ascending, disjoint
};

}  // namespace mose
