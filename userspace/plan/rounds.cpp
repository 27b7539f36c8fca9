// SPDX-License-Identifier: MIT
#include "plan/rounds.h"

namespace mose::plan {

bool precopies(Strategy strategy) {
  return strategy != Strategy::cold && strategy != Strategy::postcopy;
}

bool another_round(unsigned round, unsigned rounds_max, uint64_t pages_sent, uint64_t pages_before) {
  if (round >= rounds_max || pages_sent <= kRestPages) return false;
  if (round == 1) return true;
  return static_cast<double>(pages_sent) <= static_cast<double>(pages_before) * kShrinkPercent / 100;
}

}  // namespace mose::plan
