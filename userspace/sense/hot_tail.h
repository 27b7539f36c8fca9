// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <vector>

#include "model/dirty_source.h"
#include "model/page_set.h"
#include "sense/page_reader.h"

namespace mose::sense {

// Of the levels of a process, hottest first, and of what is `due` in a round that protects what it reads: those pages that are worth being
// read last, and not protected. They are of levels of which enough has been written since they were sent; part of `pages`, which
// the process has, and `pages_max` at most. None where much is written elsewhere. The final scan reads all of them, 2 us each: kTailMost
// of all processes together.
inline constexpr uint64_t kTailMost = 32768;
[[nodiscard]] std::vector<PageSet> hot_tail(const SpaceProcess& process, std::span<const PageSet> levels, const PageSet& due, uint64_t pages,
                                            uint64_t pages_max, const Hashes& hashes);

}  // namespace mose::sense
