// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>
#include <vector>

#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "model/dirty_source.h"
#include "model/page_table.h"

// Reading pages and comparing them with what was sent: what the dirty sources share.
namespace mose::sense {

// XXH3-64 of the bytes that the destination holds, per page; 0: never sent. Two contents with the same hash would be
// taken for equal: 2^-64 per changed page.
using Hashes = PageTable<uint64_t>;

struct Populated {
  PageSet pages;  // lazy-eligible pages that are populated now
  PageSet areas;  // the lazy-eligible regions
  std::vector<Vma> vmas;
};
// `with_pages` false: only the regions.
[[nodiscard]] Result<Populated> populated_pages(const SpaceProcess& process, ScanPace pace, bool with_pages = true);

// How pages are read.
struct Reading {
  unsigned threads = 1;
  std::span<const PageSet> hot;  // these after the others, the hottest last; hottest first here
  // Called with the pages that are read next, about so many. May be absent.
  std::function<Status(const PageSet&)> before;
  uint64_t before_pages = (64u << 20) / kPageSize;
  PageSet* zero = nullptr;  // gets the pages that were read as all zero; may be null
};
// Reads `pages`, passes those that changed to `sink`, one call at a time, and remembers their hashes once they are sent.
// ECANCELED when stopped.
[[nodiscard]] Status send_changed(const SpaceProcess& process, const PageSet& pages, const Reading& reading,
                                  Hashes& hashes, PageSink& sink, const std::stop_token& stop, ScanStats& stats);

struct Compared {
  PageSet zero, changed, unreadable;
};
// The same of a frozen process, without sending. Without any hash nothing is read.
[[nodiscard]] Result<Compared> compare(const SpaceProcess& process, const PageSet& pages, const Hashes& hashes,
                                       unsigned threads);

// Nothing changes in a frozen tree: what is populated and cannot be read would be lost.
[[nodiscard]] Status check_all_read(const PageSet& populated_unreadable);

// The pages of `set` that have a hash.
[[nodiscard]] PageSet known_pages(const PageSet& set, const Hashes& hashes);
// How many pages have a hash.
[[nodiscard]] uint64_t count_pages(const Hashes& hashes);
// One of `every` so many, at no regular distance.
struct Picking {
  uint64_t every = 1;
  uint64_t seen = 0;
  [[nodiscard]] bool pick();
};
struct Sample {
  uint64_t read = 0, changed = 0;  // changed: other than they were sent
};
// Reads these, which were sent, of a running process.
[[nodiscard]] Status look_for_changes(const SpaceProcess& process, const PageSet& pages, const Hashes& hashes, Sample& sample);

// The levels of one space; none where it has no heat.
[[nodiscard]] std::span<const PageSet> levels_of(std::span<const SpaceHeat> heat, SpaceId space);

// One round, or the final pass, over every process: `one` does its work and counts it. A process that ends during a round
// is counted as gone; in the frozen tree nobody ends.
[[nodiscard]] Result<ScanStats> round_over(std::span<const SpaceProcess> processes,
                                           const std::function<Status(const SpaceProcess&, ScanStats&)>& one);
[[nodiscard]] Result<FinalPages> final_over(std::span<const SpaceProcess> processes,
                                            const std::function<Result<SpacePages>(const SpaceProcess&, ScanStats&)>& one);

}  // namespace mose::sense
