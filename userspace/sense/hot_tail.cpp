// SPDX-License-Identifier: MIT
#include "sense/hot_tail.h"

#include <algorithm>

namespace mose::sense {
namespace {

// Of the round that reads everything: what is read last, because it is hot, is no more than this part of all, or so many pages.
constexpr uint64_t kTailPart = 32, kTailPages = 4096;
// Every stretch of it is a gap in what is protected before, and costs that round some 20 us. It is worth that where this share of it
// is written again in as long as a round takes: each of these pages costs the workload a fault, and more when both work.
constexpr double kTailWritten = 0.25;
constexpr uint64_t kTailSample = 512;

std::span<const PageSet> hottest(std::span<const PageSet> levels, uint64_t pages) {
  uint64_t left = std::max(kTailPages, pages / kTailPart);
  size_t count = 0;
  while (count < levels.size() && levels[count].pages() <= left) left -= levels[count++].pages();
  return levels.first(count);
}

// Whether enough of it has been written since it was sent.
bool written_again(const SpaceProcess& process, std::span<const PageSet> tail, const Hashes& hashes) {
  uint64_t all = 0;
  for (const PageSet& level : tail) all += level.pages();
  Picking picking{.every = std::max<uint64_t>(all / kTailSample, 1)};
  PageSet picked;
  for (const PageSet& level : tail)
    for (const PageRun& run : level.runs())
      for (uint64_t page = run.first; page < run.end(); ++page)
        if (picking.pick()) picked.add({page, 1});
  Sample sample;
  if (!look_for_changes(process, picked, hashes, sample)) return false;
  return static_cast<double>(sample.changed) >= static_cast<double>(sample.read) * kTailWritten;
}

}  // namespace

std::span<const PageSet> hot_tail(const SpaceProcess& process, std::span<const PageSet> levels, uint64_t pages, const Hashes& hashes) {
  const auto tail = hottest(levels, pages);
  return written_again(process, tail, hashes) ? tail : std::span<const PageSet>{};
}

}  // namespace mose::sense
