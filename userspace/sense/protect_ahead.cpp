// SPDX-License-Identifier: MIT
#include "sense/protect_ahead.h"

#include <utility>
#include <vector>

namespace mose::sense {
namespace {

// A system call that protects interrupts all threads of the process and, beside them, takes 20 to 100 us: as much as a look at so many
// pages that lie between.
constexpr uint64_t kBridged = 512;
// As many calls for one part are worth leaving out what is spared; beyond that it is protected with its neighbours.
constexpr size_t kCallsMax = 1024;

// The same pages, and those between them where that saves calls.
PageSet bridged(const PageSet& pages) {
  std::vector<PageRun> runs;
  for (const PageRun& run : pages.runs()) {
    if (!runs.empty() && run.first - runs.back().end() <= kBridged) {
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
  const PageSet all = bridged(due).intersect(around_).minus(huge_.minus(due));
  PageSet sparing = all.minus(spared_.minus(due));
  return sparing.runs().size() <= kCallsMax ? std::move(sparing) : all;
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
  auto written = pagemap_.protect(in_few_calls(due));
  if (!written) return std::unexpected(written.error());
  planned_ = planned_.minus(next);
  again_ = again_.unite(written->minus(next).minus(planned_));
  pin_ = settle_({&pid_, 1});
  return {};
}

}  // namespace mose::sense
