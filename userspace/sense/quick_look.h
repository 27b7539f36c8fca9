// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <span>

#include "base/result.h"
#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "model/page_set.h"

// A look at the page tables of a process that finds most of the clean pages without looking at each. Only where
// Pagemap::looks_quickly().
namespace mose::sense {

// What a quick look finds in the tracked regions that it is true of. A page of a running process may be written right afterwards:
// the next look finds it.
struct QuickLook {
  PageSet changed;  // written, or not there: a guard page as well, or one that was given back, which takes the full look
  PageSet clean;    // certainly: protected, and not written since. Pages that are clean may be left out
};
// `known` gives those pages of a set that, if they are protected now, were so when they were read last (what was protected later has been
// read again, ProtectAhead::again()); no other is called clean.
[[nodiscard]] Result<QuickLook> look_quickly(const Pagemap& pagemap, std::span<const Vma> vmas,
                                             const std::function<PageSet(const PageSet&)>& known);

// What of `areas` is still to be looked at, in pieces that are worth a system call each: some of `clean` is among it again.
[[nodiscard]] PageSet left_to_look_at(const PageSet& areas, const PageSet& clean);

}  // namespace mose::sense
