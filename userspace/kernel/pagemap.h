// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"
#include "model/page_set.h"

namespace mose {

// How a process is looked at. Every look locks its address space against changes of its mappings, by its own threads as
// well: 6 ms per GB.
enum class ScanPace : uint8_t {
  at_once,  // for one that stands still: half a millisecond at a time, for the sake of who dumps it meanwhile
  gentle,   // in steps of a few tenths of a millisecond, with pauses in which its threads come to their turn
};

// The page tables of one process through PAGEMAP_SCAN (Linux 6.7). Bound to the address space that the process had when
// it was opened.
class Pagemap {
 public:
  [[nodiscard]] static Result<Pagemap> open(pid_t pid, ScanPace pace = ScanPace::at_once);

  // Pages of `range` with contents of their own: present or swapped, not of a file (unless written), not the zero page,
  // not a guard page. About 40 ns per page present. A process without memory has none.
  [[nodiscard]] Result<PageSet> populated(PageRun range) const;
  [[nodiscard]] Result<PageSet> populated(const PageSet& areas) const;

  // The same pages of private anonymous memory, parted by what WriteTracking knows of them.
  struct Tracked {
    PageSet clean;      // protected, and not written since
    PageSet written;    // in a tracked region, written or populated since
    PageSet untracked;  // in no tracked region
    PageSet huge;       // of all of them those that the page tables have as whole huge pages
  };
  [[nodiscard]] Result<Tracked> tracked(const PageSet& areas) const;
  // The quick look at tracked regions, for which the kernel looks at no page itself: pages that are written, or not there. What of `areas` is not
  // among them is protected and as it was then. Only where looks_quickly().
  [[nodiscard]] Result<PageSet> not_protected(const PageSet& areas) const;
  // Whether the mapping that `page` lies in is tracked.
  [[nodiscard]] Result<bool> is_tracked(uint64_t page) const;
  // Whether this kernel's quick look is as said, tried out in this process once: there are such that pass over memory whose
  // page table has gone, and with it what was given back since.
  [[nodiscard]] static bool looks_quickly();

  // Protects what is `written` in `areas`, atomically with finding out: a page written after that is `written` again.
  // Always at the gentle pace. Gives the pages.
  [[nodiscard]] Result<PageSet> protect(const PageSet& areas) const;

 private:
  Pagemap(Fd file, ScanPace pace) : file_(std::move(file)), pace_(pace) {}
  Fd file_;
  ScanPace pace_;
};

}  // namespace mose
