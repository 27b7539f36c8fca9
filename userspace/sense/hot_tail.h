// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <vector>

#include "model/dirty_source.h"
#include "model/page_set.h"
#include "sense/page_reader.h"

namespace mose::sense {

// Of the levels of a process, hottest first, those that are worth being read last, and not protected, in the round that reads and
// protects all of its other `pages`: those of which enough has been written since they were sent,
// `pages_max` at most. The final scan reads all of them: kTailMost of all processes together.
inline constexpr uint64_t kTailMost = 32768;
[[nodiscard]] std::vector<PageSet> hot_tail(const SpaceProcess& process, std::span<const PageSet> levels, uint64_t pages, uint64_t pages_max,
                                            const Hashes& hashes);

}  // namespace mose::sense
