// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <vector>

#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "model/page_set.h"

namespace mose::restore {

// Takes pages out of a frozen standby that were written at the source since they came: what is missing is served when it is
// touched, what is there would be read. So the switchover does not wait for them.
//
// Nobody but a process itself can drop its private pages, so it is made to (StoppedTree): one MADV_DONTNEED for a thousand
// runs. A userfaultfd would be told of each of them, and have each wait for its reader: meanwhile its memory is not registered.
// Nothing can touch it then: every thread is stopped, and the one that drops the pages is in the kernel all the time. Whoever
// dies in between takes the tree with him.
struct DiscardTarget {
  const ProcessHandle* process = nullptr;
  int uffd = -1;                // a borrow
  std::vector<PageRun> areas;   // what is registered with it
  std::vector<PageRun> pages;   // present private ones in these; ascending
};

// The kernel has what it takes (6.14; many pages at the price of few since 6.16). Tried out once, on memory of our own.
[[nodiscard]] bool can_discard_pages();

// Pages that are still there, of each target: what its thread itself needs on its way to a call. `group` holds the tree and
// nothing else, and is frozen before and after; nobody else uses the userfaultfds meanwhile. Where nothing could be done at
// all everything is still there, and a line in the log says why. An error: nothing is known of the standby, not even that it is
// frozen; kill it.
[[nodiscard]] Result<std::vector<PageSet>> discard_pages(const Cgroup& group, std::span<const DiscardTarget> targets);

}  // namespace mose::restore
