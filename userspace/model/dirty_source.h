// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "model/page_heat.h"
#include "model/page_set.h"

namespace mose {

// One process whose memory is moved. The caller lists them anew for every round, the root of the tree first and what they
// share behind them: processes that fork, exit or exec between rounds are nothing special (what counts is the contents last
// sent for a space and a page).
struct SpaceProcess {
  SpaceId space = 0;        // pid in its own (innermost) pid namespace
  int pid = 0;              // pid here
  uint64_t start_time = 0;  // field 22 of /proc/PID/stat; 0: not checked
  // Not the process's own memory but an object that it shares (see kSharedSpaces): a path that opens it.
  std::string object;

  bool operator==(const SpaceProcess&) const = default;
};

// Where changed pages go during a round. The bytes passed are exactly what the dirty source remembers as sent: a page
// that is written meanwhile is found again later, whatever was written.
class PageSink {
 public:
  virtual ~PageSink() = default;
  // Piece i holds the pages of run i, valid during the call; runs ascend, 1..kPagesPerSendMax pages together. An error
  // ends the round with that error; the pages then count as not sent.
  static constexpr uint64_t kPagesPerSendMax = 512;
  virtual Status send_pages(SpaceId space, std::span<const PageRun> runs,
                            std::span<const std::span<const std::byte>> pieces) = 0;
  // The same where the hashes of the pages are known: XXH3-64 of each one's bytes, 1 in place of 0.
  virtual Status send_hashed(SpaceId space, std::span<const PageRun> runs,
                             std::span<const std::span<const std::byte>> pieces, std::span<const uint64_t>) {
    return send_pages(space, runs, pieces);
  }
};

struct ScanStats {
  uint64_t pages_present = 0;  // lazy-eligible, populated and not all zero
  uint64_t pages_zero = 0;     // populated, but all zero: as good as absent, never sent
  uint64_t pages_changed = 0;  // sent in this round, or `remote` of the final scan
  uint64_t pages_read = 0;     // looked at by content; the rest is known from the kernel's record
  uint64_t pages_armed = 0;    // of pages_read: protected for the first time, so that the next round knows of them without reading
  uint64_t pages_unprotected = 0;  // of pages_read: tracked, but left unprotected because they are hot: their writes are no faults
  uint64_t pages_next_protected = 0;  // of pages_unprotected: another round would protect them
  uint64_t spaces_gone = 0;    // processes that ended before they could be read
  Nanoseconds duration{0};
};

// What the final page map says of one space (PAGE_MAP on the wire).
struct SpacePages {
  SpaceId space = 0;
  PageSet present;  // every lazy-eligible page with contents; not those that are known to be all zero
  PageSet remote;   // part of `present` whose contents were not sent, or changed since
  PageSet first;    // part of `remote` that a resumed thread touches at once: its stack and TLS; a hint
  std::vector<PageSet> hot;  // parts of `remote`, disjoint, those written most often first; a hint, stays here
};
struct FinalPages {
  std::vector<SpacePages> spaces;
  ScanStats stats;
};

// The truth about what changed since it was last sent. Lazy-eligible memory only: private anonymous (heap, stacks, bss),
// not locked, not hugetlb, not vdso and the like.
//
// Life: any number of rounds while the tree runs, then one final_scan of the frozen tree (without any round it gives all
// pages as remote: pure post-copy). One thread at a time.
class DirtySource {
 public:
  virtual ~DirtySource() = default;
  // "hash-scan" and the like, as it works now, and why so in one sentence: for reports.
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual std::string reason() const = 0;
  // Passes every page that is new or changed since it was last passed to `sink`. ECANCELED when `stop` was requested.
  virtual Result<ScanStats> round(std::span<const SpaceProcess> processes, PageSink& sink, std::stop_token stop) = 0;
  // In rounds from here on these pages are read after the others of their space, the hottest last: what is written all
  // the time is worth sending late, so that least of it is written again before the round is over.
  virtual void read_last(std::span<const SpaceHeat>) {}
  // The next round, and those after it, may be the last before the freeze: the time to make the final scan cheap.
  virtual void expect_last() {}
  // Whether expect_last() would change anything from the next round on.
  [[nodiscard]] virtual bool waits_for_last() const { return false; }
  // How many pages of the running tree are other than they were sent, about, from a sample that takes some milliseconds. Nothing
  // where that is not known.
  virtual std::optional<double> estimate_written(std::span<const SpaceProcess>) { return std::nullopt; }
  // The tree has just been frozen and nobody has touched it since: what can be told of it only now. Before final_scan(), which
  // then runs while CRIU maps its own code into the processes. Without it final_scan() is as exact and takes longer.
  virtual void tree_stopped(std::span<const SpaceProcess>) {}
  // The tree is frozen. Exact; a process that cannot be read is an error (a zombie has no pages).
  virtual Result<FinalPages> final_scan(std::span<const SpaceProcess> processes) = 0;
  // The tree runs on, or has gone: takes away what was put on the processes, without stalling them; may take 100 ms per
  // GB. Never while the tree is frozen. The destructor does the same.
  virtual void end_tracking() {}
};

}  // namespace mose
