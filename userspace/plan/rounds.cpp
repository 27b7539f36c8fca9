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

bool may_be_last(unsigned round, unsigned rounds_max, uint64_t pages) {
  return round >= 2 || round >= rounds_max || (pages != 0 && pages <= kRestPages);
}

}  // namespace mose::plan
