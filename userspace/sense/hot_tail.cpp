// SPDX-License-Identifier: MIT
#include "sense/hot_tail.h"

#include <algorithm>
#include <optional>

namespace mose::sense {
namespace {

// What is read last and left unprotected, because it is hot, is no more than this part of all, or so many pages. The final scan reads
// all of them again (2 us a page, scattered as they lie, where a write fault costs the workload 25).
constexpr uint64_t kTailPart = 32, kTailPages = 4096;
// Every stretch of it is a gap in what is protected before, and costs that round 20 us, 100 beside a workload that faults. It is worth
// that where this share of it is written again in as long as a round takes: each of these pages would cost the workload a fault, and
// the time that it takes to send them another one each.
constexpr double kTailWritten = 0.25;
// While those gaps are made the workload pays for what it writes elsewhere, so most of its writes must go to what is spared: so many
// times as many pages. A Redis that is read writes to nothing else; one that is written to would pay for a longer round what it saves.
constexpr double kTailShare = 2;
constexpr uint64_t kTailSample = 256, kRestSample = 1024;

// How many of these have been written since they were sent; nothing: not known.
std::optional<double> written_of(const SpaceProcess& process, const PageSet& pages, uint64_t sample_max, const Hashes& hashes) {
  Picking picking{.every = std::max<uint64_t>(pages.pages() / sample_max, 1)};
  PageSet picked;
  for (const PageRun& run : pages.runs())
    for (uint64_t page = run.first; page < run.end(); ++page)
      if (picking.pick()) picked.add({page, 1});
  Sample sample;
  if (!look_for_changes(process, picked, hashes, sample) || sample.read == 0) return std::nullopt;
  return static_cast<double>(sample.changed) / static_cast<double>(sample.read) * static_cast<double>(pages.pages());
}

// Any of a level are as good as any others.
PageSet first_of(const PageSet& level, uint64_t pages) {
  PageSet out;
  for (const PageRun& run : level.runs()) {
    if (pages == 0) break;
    out.add({run.first, std::min(run.count, pages)});
    pages -= std::min(run.count, pages);
  }
  return out;
}

}  // namespace

std::vector<PageSet> hot_tail(const SpaceProcess& process, std::span<const PageSet> levels, const PageSet& due, uint64_t pages,
                              uint64_t pages_max, const Hashes& hashes) {
  uint64_t left = std::min(std::max(kTailPages, pages / kTailPart), pages_max);
  std::vector<PageSet> tail;
  PageSet rest = due;
  double spared = 0;
  for (const PageSet& all : levels) {
    if (left == 0) break;
    const PageSet level = all.intersect(due);
    // Heat is of the past: of a level above one that is written much nothing may be written any more.
    if (level.empty()) continue;
    const auto written = written_of(process, level, kTailSample, hashes);
    if (!written || *written < static_cast<double>(all.pages()) * kTailWritten) continue;
    tail.push_back(first_of(level, left));
    left -= tail.back().pages();
    spared += *written * static_cast<double>(tail.back().pages()) / static_cast<double>(level.pages());
    rest = rest.minus(tail.back());
  }
  if (tail.empty()) return {};
  // What was never sent, as what is all zero, is not written because it is other than it was sent.
  const auto elsewhere = written_of(process, known_pages(rest, hashes), kRestSample, hashes);
  if (elsewhere && spared < *elsewhere * kTailShare) return {};
  return tail;
}

}  // namespace mose::sense
