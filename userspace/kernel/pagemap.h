// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include "base/fd.h"
#include "base/result.h"
#include "model/page_set.h"

namespace mose {

// The page tables of one process through PAGEMAP_SCAN (Linux 6.7). Bound to the address space that the process had when
// it was opened.
class Pagemap {
 public:
  [[nodiscard]] static Result<Pagemap> open(pid_t pid);

  // Pages of `range` with contents of their own: present or swapped, not of a file (unless written), not the zero page,
  // not a guard page. About 40 ns per page present. A process without memory has none.
  [[nodiscard]] Result<PageSet> populated(PageRun range) const;

 private:
  explicit Pagemap(Fd file) : file_(std::move(file)) {}
  Fd file_;
};

}  // namespace mose
