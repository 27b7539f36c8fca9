// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/page_set.h"

namespace mose::restore {

// In which order the pages of an address space are filled in: a pure function, so that it can be tried and judged without
// a kernel.
//
//   1. pages that were written most often (heat), hottest first as given, each set ascending
//   2. small runs, highest address first: stacks, thread-local storage and the libraries' data are small and lie high,
//      and every thread touches some of them in its first microseconds
//   3. the rest in ascending order, in pieces that do not cross a multiple of their size (one page table each at 2 MiB)
inline constexpr uint64_t kSmallRunPages = 64;

// Every page of `pages` is in exactly one piece; a piece has at most `piece` pages.
[[nodiscard]] std::vector<PageRun> fill_order(const PageSet& pages, std::span<const PageSet> hot, uint64_t piece);

}  // namespace mose::restore
