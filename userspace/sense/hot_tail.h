// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include "model/dirty_source.h"
#include "model/page_set.h"
#include "sense/page_reader.h"

namespace mose::sense {

// Of the levels of a process, hottest first, those that are worth being read last, without their neighbours, in the round that reads and
// protects all of its `pages`; none where too few of them have been written since they were sent.
[[nodiscard]] std::span<const PageSet> hot_tail(const SpaceProcess& process, std::span<const PageSet> levels, uint64_t pages,
                                                const Hashes& hashes);

}  // namespace mose::sense
