// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/dirty_source.h"
#include "sense/hash_scan.h"
#include "sense/page_reader.h"
#include "sense/settle.h"
#include "sense/shared_tracking.h"

namespace mose::sense {

struct WriteScanOptions {
  HashScanOptions hash;
  // Where a write fault is dear: protect only from the round on that may be the last (expect_last), so that the
  // workload pays for the writes of that round only. Else from the first round on.
  bool late = true;
  // Where it costs more than a page that the final scan reads: with `late` pages are left unprotected as hot in every round that
  // protects, not only in the one that reads everything.
  bool dear = true;
  std::string why;  // a sentence, for reports; empty: this class's own
};

// Finds changed pages by the kernel's write tracking (kernel/write_tracking.h); what cannot be tracked is hashed.
//
// A round until arming hashes everything, as HashScan. The arming round reads all pages and protects them shortly before: tracking
// begins before a page is read. But for some of the hottest pages, which are read last, unprotected, and compared by the final
// scan. Later rounds protect again and read what was written meanwhile. The final scan asks the page tables (1 to 6 ms per GB)
// and reads only what was written, and of that no more than pays. What was sent is remembered by its hash here too: a page that
// was read as written but is the same is not sent again.
//
// Per process, each exact:
// * tracked: private anonymous memory, populated or not, growing heaps and stacks, huge pages, across fork (the
// parent).
// * read in full each time: regions that appeared since the last round or were moved (mremap), children of a fork and
//   whatever an exec brings until the next round arms them; processes that cannot be tracked, with the reason in
//   reason(): no thread to borrow, a page that may be written behind the page tables, by a device (direct I/O, asynchronous I/O)
//   or by another process that is in process_vm_writev().
// * tracked where it is certain (sense/shared_tracking.h), else read in full: objects of shared memory.
// * absent: pages given back (MADV_DONTNEED, munmap).
//
// Memory: 8 bytes per page ever sent.
class WriteScan final : public DirtySource {
 public:
  explicit WriteScan(WriteScanOptions options = {});
  ~WriteScan() override;

  // "write-protection", or "hash-scan" as long as no process is tracked.
  [[nodiscard]] std::string_view name() const override;
  [[nodiscard]] std::string reason() const override;
  Result<ScanStats> round(std::span<const SpaceProcess> processes, PageSink& sink, std::stop_token stop) override;
  void read_last(std::span<const SpaceHeat> hot) override { hot_.assign(hot.begin(), hot.end()); }
  void expect_last() override { expected_last_ = true; }
  [[nodiscard]] bool waits_for_last() const override { return !arming(); }
  // Of pages that were sent; unknown once they are protected.
  std::optional<double> estimate_written(std::span<const SpaceProcess> processes) override;
  void tree_stopped(std::span<const SpaceProcess> processes) override { shared_.tree_stopped(processes); }
  Result<FinalPages> final_scan(std::span<const SpaceProcess> processes) override;
  void end_tracking() override;

  struct ArmStats {
    unsigned processes = 0;       // armed
    Nanoseconds stop_longest{0};  // of a borrowed thread
  };
  [[nodiscard]] const ArmStats& arm_stats() const { return arm_; }

 private:
  struct Space;
  struct Due;
  Space& space_of(SpaceId id);
  Status round_of(const SpaceProcess& process, PageSink& sink, std::stop_token& stop, ScanStats& stats);
  Result<Due> look_at(const SpaceProcess& process, Space& space, const Pagemap& pagemap, bool complete);
  Result<std::optional<std::string>> read_due(const SpaceProcess& process, Space& space, const Pagemap& pagemap, const Due& due,
                                              Reading reading, PageSink& sink, const std::stop_token& stop, ScanStats& stats);
  Status round_of_object(const SpaceProcess& object, PageSink& sink, std::stop_token& stop, ScanStats& stats);
  Result<SpacePages> final_of(const SpaceProcess& process, ScanStats& stats);
  void arm(const SpaceProcess& process, Space& space);
  [[nodiscard]] bool arming() const { return !options_.late || expected_last_; }
  // Hot pages stay unprotected in rounds behind the one that reads everything, too.
  [[nodiscard]] bool spares_behind() const { return options_.late && options_.dear; }
  [[nodiscard]] WriteTracking* tracking_of(SpaceId process);

  WriteScanOptions options_;
  bool expected_last_ = false;
  uint64_t tail_left_ = 0;  // hot pages that may be left unprotected in the round under way
  ArmStats arm_;
  std::vector<SpaceHeat> hot_;  // see read_last
  std::map<SpaceId, std::unique_ptr<Space>> spaces_;
  SharedTracking shared_;
  Settle settle_;
};

}  // namespace mose::sense
