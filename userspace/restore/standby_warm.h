// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <span>

#include "base/clock.h"
#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "model/page_set.h"

namespace mose::restore {

// Lets the processes of a frozen standby read one byte of every page that was put into them. Nothing is missing there, but where a
// hypervisor keeps page tables of its own they know nothing yet of a page that its process has not touched itself: it would pay
// microseconds for each when it runs, unseen by the guest (tests/bench/first_touch_bench).
//
// A few instructions of ours are mapped into the process for that time, and executed by its first thread (StoppedTree), nicely.
// Nothing of its own runs, and nothing of its memory is written but what StoppedTree says. x86-64 only so far.
struct WarmTarget {
  const ProcessHandle* process = nullptr;
  PageSet areas;  // where to look for pages that are there
};

struct Warmed {
  uint64_t pages = 0, pages_all = 0;  // read; that are there
  Nanoseconds took{};
  bool worth = true;  // false: the first of them cost next to nothing, and the others were left alone
  bool judged = false;  // there were enough of them to tell
};

enum class Warming : uint8_t { where_worth, always };

// `group` holds the tree and nothing else, and is frozen before and after. Comes to its end within a few milliseconds once `stop`
// is set, and after `bound`. Where nothing could be done, in all of it or in one process, a line in the log says why. An error:
// nothing is known of the standby, not even that it is frozen; kill it.
[[nodiscard]] Result<Warmed> warm_pages(const Cgroup& group, std::span<const WarmTarget> targets, Nanoseconds bound, const std::atomic<bool>& stop,
                                        Warming which = Warming::where_worth);

// Lets their first threads make an empty system call every few milliseconds from then on, on each of up to four processors, until `stop`
// is set; a thread that may use all of them is moved for that, and may again afterwards. Such a hypervisor looks through all of
// a process's page tables when it runs again after a tenth of a second or more: 10 ms a gigabyte, in which the whole machine may stand
// still, and the workload would pay them with its first step. As above; gives the number of calls.
[[nodiscard]] Result<uint64_t> keep_warm(const Cgroup& group, std::span<const WarmTarget> targets, const std::atomic<bool>& stop);

}  // namespace mose::restore
