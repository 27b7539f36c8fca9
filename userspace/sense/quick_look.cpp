// SPDX-License-Identifier: MIT
#include "sense/quick_look.h"

#include <vector>

namespace mose::sense {
namespace {

// Of smaller regions all is looked at.
constexpr uint64_t kRegionPagesMin = 512;
// As many pages cost about as much as one more system call.
constexpr uint64_t kPiecePages = 64;

// The regions of which the quick look is true. A userfaultfd of the process's own protects pages, too.
Result<PageSet> tracked_regions(const Pagemap& pagemap, std::span<const Vma> vmas) {
  PageSet out;
  for (const Vma& vma : vmas) {
    if (!vma.lazy_eligible() || vma.pages.count < kRegionPagesMin) continue;
    MOSE_ASSIGN(bool tracked, pagemap.is_tracked(vma.pages.first));
    if (tracked) out.add(vma.pages);
  }
  return out;
}

PageRun outwards(PageRun run, uint64_t unit) {
  const uint64_t first = run.first / unit * unit;
  return {first, (run.end() + unit - 1) / unit * unit - first};
}

}  // namespace

Result<QuickLook> look_quickly(const Pagemap& pagemap, std::span<const Vma> vmas,
                               const std::function<PageSet(const PageSet&)>& known) {
  QuickLook out;
  MOSE_ASSIGN(PageSet regions, tracked_regions(pagemap, vmas));
  MOSE_ASSIGN(out.changed, pagemap.not_protected(regions));
  out.clean = known(regions.minus(out.changed));
  return out;
}

PageSet left_to_look_at(const PageSet& areas, const PageSet& clean) {
  std::vector<PageRun> pieces;
  const PageSet rest = areas.minus(clean);
  for (const PageRun& run : rest.runs()) pieces.push_back(outwards(run, kPiecePages));
  return PageSet::from_runs(std::move(pieces)).intersect(areas);
}

}  // namespace mose::sense
