// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <span>

#include "base/result.h"
#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "model/page_set.h"

// A look at the page tables of a stopped process that finds most of the clean pages in a quarter of the time: 5 against 22 ms
// for 4 GB of which 200 pages are written. Only where Pagemap::looks_quickly().
namespace mose::sense {

// Of the pages that were protected when they were read last (`known` gives those of a set), in tracked regions. Not all of
// either kind.
struct QuickLook {
  PageSet clean;    // protected, and not written since
  PageSet written;  // written, or given back, which reads as zero
};
[[nodiscard]] Result<QuickLook> look_quickly(const Pagemap& pagemap, std::span<const Vma> vmas,
                                             const std::function<PageSet(const PageSet&)>& known);

// What of `areas` is still to be looked at, in pieces that are worth a system call each: some of `seen` is among it again.
[[nodiscard]] PageSet left_to_look_at(const PageSet& areas, const PageSet& seen);

}  // namespace mose::sense
