// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "model/migration.h"

// When pre-copy ends. Every round sends what was written during the round before; a round more is worth its bandwidth
// only while the rounds shrink and the rest is too much for the freeze.
namespace mose::plan {

// A last round of at most 16 MiB leaves about as little again to send: on 1 Gbit/s 130 ms of pre-copy are nothing to
// win.
inline constexpr uint64_t kRestPages = (16ull << 20) / 4096;
// A round that sent more than this share of the round before has met the working set: the next would send it again.
inline constexpr unsigned kShrinkPercent = 70;

// False for strategies that stop the workload before any memory is sent.
[[nodiscard]] bool precopies(Strategy strategy);

// After round number `round` (from 1) sent `pages_sent`, and the round before it `pages_before` (ignored for round 1).
// `rounds_max` below 1 counts as 1.
[[nodiscard]] bool another_round(unsigned round, unsigned rounds_max, uint64_t pages_sent, uint64_t pages_before);

// True when the freeze may follow round number `round`, as far as one knows before it: `pages` is what the workload has
// (0: unknown). The final scan is prepared during such rounds.
[[nodiscard]] bool may_be_last(unsigned round, unsigned rounds_max, uint64_t pages);

}  // namespace mose::plan
