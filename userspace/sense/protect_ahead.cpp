// SPDX-License-Identifier: MIT
#include "sense/protect_ahead.h"

#include <utility>
#include <vector>

namespace mose::sense {
namespace {

// A system call that protects interrupts all threads of the process and, beside them, takes 20 to 100 us: as much as a look at so many
// pages that lie between, or, beside a workload that is faulting, at five times as many.
constexpr uint64_t kBridged = 512;
// As many calls for one part are worth leaving out what is spared; beyond that it is protected with its neighbours, and wider gaps are
// bridged, up to those that no scattered pages of a workload have.
constexpr size_t kCallsMax = 1024;
constexpr uint64_t kBridgedMax = 1u << 18;

// The same pages, and those between them where that saves calls.
PageSet bridged(const PageSet& pages, uint64_t gap) {
  std::vector<PageRun> runs;
  for (const PageRun& run : pages.runs()) {
    if (!runs.empty() && run.first - runs.back().end() <= gap) {
      runs.back().count = run.end() - runs.back().first;
    } else {
      runs.push_back(run);
    }
  }
  return PageSet::from_runs(std::move(runs));
}

}  // namespace

PageSet ProtectAhead::in_few_calls(const PageSet& due) const {
  // In parts a huge page would be broken up.
  const PageSet others_huge = huge_.minus(due), spared = spared_.minus(due);
  PageSet fewest;
  for (uint64_t gap = kBridged;; gap *= 2) {
    PageSet all = bridged(due, gap).intersect(around_).minus(others_huge);
    PageSet sparing = all.minus(spared);
    if (sparing.runs().size() <= kCallsMax) return sparing;
    if (all.runs().size() <= kCallsMax) return all;
    // Regions and huge pages part a wider gap again: where that does not help, what lies between is protected for nothing.
    if (fewest.empty() || all.runs().size() < fewest.runs().size()) fewest = std::move(all);
    if (gap >= kBridgedMax) return fewest;
  }
}

// Huge pages by themselves: a call goes through its area in steps of whole page tables, which begin where it begins.
Result<PageSet> ProtectAhead::protect(const PageSet& pages) const {
  MOSE_ASSIGN(PageSet written, pagemap_.protect(pages.minus(huge_)));
  MOSE_ASSIGN(PageSet huge, pagemap_.protect(pages.intersect(huge_)));
  return written.unite(huge);
}

Status ProtectAhead::operator()(const PageSet& next) {
  if (pin_) return {};
  const PageSet touched = next.intersect(huge_);
  PageSet whole;
  for (const PageRun& run : touched.runs()) {
    const uint64_t first = run.first / kTablePages * kTablePages;
    const uint64_t end = (run.end() + kTablePages - 1) / kTablePages * kTablePages;
    whole = whole.unite(PageSet::from_runs({{first, end - first}}));
  }
  whole = whole.intersect(huge_);
  const PageSet due = next.unite(whole).minus(whole_done_).intersect(registered_);
  whole_done_ = whole_done_.unite(whole);
  MOSE_ASSIGN(const PageSet written, protect(in_few_calls(due)));
  planned_ = planned_.minus(next);
  again_ = again_.unite(written.minus(next).minus(planned_));
  pin_ = settle_({&pid_, 1});
  return {};
}

}  // namespace mose::sense
