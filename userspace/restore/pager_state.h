// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/userfaultfd.h"
#include "model/migration.h"
#include "model/page_set.h"

namespace mose::restore {

// What the pager knows of every address space that it serves, in a memfd that outlives it: which present pages are not in
// yet, where they lie now (after mremap), which userfaultfd belongs to it. The guardian holds the memfd; a second pager
// adopt()s it and goes on.
//
// A crash at any instruction leaves a state that is right or can be repeated:
//   * a page's bit is set after the page is in; a page that is in without its bit is copied again and found present;
//   * messages are read straight into the space's slot here, so that one that the kernel has handed out is never lost
//     (the caller's munmap or fork goes on at that moment); it is cleared when it has been carried out, and carrying it
//     out twice changes nothing: REMOVE and UNMAP set bits, REMAP and FORK are marked with the number of the message;
//   * a changed list of segments is written beside the old one and switched to by one store;
//   * a page of a standby is noted before it is put in: until `refreshed` is set what is noted may be stale.
//
// Not synchronised but for the allocation and the list of spaces: each space is used under its owner's lock.
inline constexpr size_t kStateBytesMax = 1u << 30;  // address room; memory is taken as it is used: 1 bit per page and space
inline constexpr uint32_t kStateSpacesMax = 4096;   // processes at the restore and their later forks
inline constexpr std::string_view kStateName = "mose-pager-state";

// Pages that stand together now and at the source; their bits (set: in, or not wanted any more) follow each other.
struct Segment {
  uint64_t first = 0;   // page now
  uint64_t count = 0;
  uint64_t source = 0;  // page at the source
  uint64_t bit = 0;     // of the first page, counted from the start of the memfd
};

enum class SpaceState : uint32_t {
  none = 0,
  bare = 1,     // has a userfaultfd, its pages are not known yet (the final map has not arrived)
  serving = 2,
  closed = 3,   // its process is gone, or everything is in and the userfaultfd is closed
  forgotten = 4,  // was a standby's
};

class PagerState {
 public:
  // The header's facts that outlive the pager. Plain words, written by one thread each.
  struct Header {
    uint64_t magic;
    uint32_t version;
    std::atomic<uint32_t> spaces;
    std::atomic<uint64_t> next_free;       // bytes
    std::array<uint8_t, 16> migration;
    std::atomic<uint32_t> restore_ended;   // 1: RSTF seen, 2: the restore failed
    std::atomic<uint32_t> fenced;          // the cgroup was seen frozen after that
    std::atomic<uint32_t> thawed;
    std::atomic<uint32_t> zombies;
    std::atomic<uint64_t> fork_events, remap_events, remove_events;
    std::atomic<uint64_t> faults, zero_faults, remote_faults;
    std::atomic<int64_t> first_fault_us;
    std::atomic<uint32_t> standby;         // 1: what CRIU restores is a standby, until it is dropped or thawed
    std::atomic<uint32_t> refreshed;       // 1: sealed, and no page of the standby is stale any more
  };

  [[nodiscard]] static Result<std::unique_ptr<PagerState>> create(const MigrationId& id);
  // Takes over what an earlier process left in `memfd`; damaged or foreign contents are an error.
  [[nodiscard]] static Result<std::unique_ptr<PagerState>> adopt(Fd memfd, const MigrationId& id);
  ~PagerState();
  PagerState(const PagerState&) = delete;
  PagerState& operator=(const PagerState&) = delete;

  [[nodiscard]] int fd() const { return memfd_.get(); }
  [[nodiscard]] Header& header();
  [[nodiscard]] uint32_t spaces() const;

  // A new space without pages. `uffd` is a number in the descriptor table that the guardian shares.
  [[nodiscard]] Result<uint32_t> add_space(SpaceId source, int uffd);
  // The child of `parent` after fork message number `message`: the same pages, with bits of its own. Asked again for the
  // same message it returns the same space.
  [[nodiscard]] Result<uint32_t> add_fork(uint32_t parent, uint64_t message, int uffd);
  // The pages that the final map names. Once per space.
  [[nodiscard]] Status set_pages(uint32_t space, const PageSet& present);

  [[nodiscard]] SpaceId source(uint32_t space) const;
  [[nodiscard]] int uffd(uint32_t space) const;
  [[nodiscard]] SpaceState state(uint32_t space) const;
  void set_state(uint32_t space, SpaceState state);

  // Where the reader puts the next message of this space; begin_read() numbers it, end_read() says that it is done with.
  [[nodiscard]] UffdMessage& begin_read(uint32_t space);
  [[nodiscard]] uint64_t message_number(uint32_t space) const;
  void end_read(uint32_t space);
  // A message that a dead reader left.
  [[nodiscard]] const UffdMessage& slot(uint32_t space) const;
  // A fork message in the slot gets this descriptor number.
  void set_fork_fd(uint32_t space, int fd);

  // A run of pages that are still to come, cut where neighbours now are none at the source.
  struct Missing {
    PageRun now;
    uint64_t source = 0;
  };
  // The missing run that starts at `page`, at most `max` long; nothing when that page is not missing.
  [[nodiscard]] std::optional<Missing> missing_at(uint32_t space, uint64_t page, uint64_t max) const;
  // The missing runs whose source pages lie in `source_run`, at most `limit` runs of them.
  void missing_of_source(uint32_t space, PageRun source_run, size_t limit, std::vector<Missing>& out) const;
  // All missing pages as a set of source pages.
  [[nodiscard]] PageSet missing_sources(uint32_t space) const;
  [[nodiscard]] uint64_t missing_count(uint32_t space) const;
  [[nodiscard]] uint64_t pages_count(uint32_t space) const;

  // A standby's pages that are about to be put in, and all that were noted so.
  [[nodiscard]] Status touch(uint32_t space, PageRun run);
  [[nodiscard]] PageSet touched(uint32_t space) const;
  // Everything that belongs to a standby that is dead: its spaces are kept as forgotten ones, their numbers and memory are
  // not used again; the header says again that nothing has been restored.
  void forget_standby();

  // Pages that are in now, or not wanted any more. Returns how many of them had been missing.
  uint64_t mark(uint32_t space, PageRun run);
  // Pages of a standby that were taken out of it again. Returns how many of them are missing now and were not.
  uint64_t unmark(uint32_t space, PageRun run);
  // The pages from..from+count stand at `to` now. `message` as numbered: a second time nothing happens.
  [[nodiscard]] Status remap(uint32_t space, uint64_t message, PageRun from, uint64_t to);

 private:
  struct Version;
  struct Record;
  struct TouchChunk;
  PagerState() = default;
  [[nodiscard]] Status map();
  [[nodiscard]] Status check(const MigrationId& id) const;
  [[nodiscard]] Record& record(uint32_t space) const;
  [[nodiscard]] TouchChunk& chunk(uint64_t at) const;
  [[nodiscard]] Status check_touched(const Record& record, uint64_t end) const;
  [[nodiscard]] std::span<const Segment> segments(uint32_t space) const;
  [[nodiscard]] Result<uint64_t> allocate(uint64_t bytes);
  [[nodiscard]] uint64_t* words() const { return reinterpret_cast<uint64_t*>(base_); }
  [[nodiscard]] Status switch_to(uint32_t space, const std::vector<Segment>& list, uint64_t message);
  uint64_t set_bits(uint32_t space, PageRun run, bool value);
  [[nodiscard]] uint64_t run_of(uint64_t bit, uint64_t count, bool set) const;

  Fd memfd_;
  std::byte* base_ = nullptr;
  std::mutex mutex_;
};

}  // namespace mose::restore
