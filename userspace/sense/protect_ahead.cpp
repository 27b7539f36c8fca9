// SPDX-License-Identifier: MIT
#include "sense/protect_ahead.h"

#include "sense/quick_look.h"

namespace mose::sense {
namespace {

// System calls, and interruptions of all threads, for one part: more are for pieces that have other pages between them.
constexpr size_t kExactMax = 1024;

}  // namespace

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
  auto written = pagemap_.protect(due.runs().size() <= kExactMax ? due : left_to_look_at(around_, around_.minus(due)));
  if (!written) return std::unexpected(written.error());
  planned_ = planned_.minus(next);
  again_ = again_.unite(written->minus(next).minus(planned_));
  pin_ = settle_({&pid_, 1});
  return {};
}

}  // namespace mose::sense
