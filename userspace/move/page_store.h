// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/memory_file.h"
#include "model/dirty_source.h"
#include "model/migration.h"
#include "model/page_provider.h"
#include "model/page_table.h"

namespace mose::move {

// The pages of one migration at the destination, in memory that outlives the process that fills it: three files of
// memory (the large one of huge pages, kernel/memory_file.h), which the guardian holds too. A second pager adopt()s
// them after a kill -9 of the first.
//
// Layout (native byte order; never leaves the machine):
//   data   ("mose-store-data"):  slot N = bytes [N * 4096, (N + 1) * 4096)
//   index  ("mose-store-index"): IndexHeader in the first 4096 bytes, then one IndexEntry per slot
//   map    ("mose-store-map"):   after sealing: the PAGE_MAP payload (include/mose/wire/frame.h), length in IndexHeader
// An entry is written (with its `used` word last) only when the page's bytes are complete and verified. After sealing a
// slot that was published never changes.
//
// Life: create() or adopt(); before seal(): prepare()/publish() of pre-copied pages, a page that comes again
// overwrites; seal() once with the final map; after it prepare()/publish() of remote pages, the first copy of a page
// wins. Thread-safe (pre-seal data arrive on one thread only).
class PageStore {
 public:
  struct IndexHeader {
    uint64_t magic;
    uint32_t version;
    uint32_t sealed;  // 0 or 1, written last in seal()
    uint64_t slots_max;
    uint64_t map_length;
    std::array<uint8_t, 16> migration;
    uint32_t epoch;
    uint32_t reserved;
  };
  struct IndexEntry {
    uint64_t page;
    uint32_t space;
    uint32_t used;  // 0 free, 1 holds the page
  };
  struct Fds {
    Fd data, index, map;
  };

  // Room for at most `bytes_max` of pages; memory is taken as pages arrive.
  [[nodiscard]] static Result<std::unique_ptr<PageStore>> create(const MigrationId& migration, uint32_t epoch,
                                                                 uint64_t bytes_max);
  // What an earlier process left. Only a sealed store is worth adopting: an error otherwise.
  [[nodiscard]] static Result<std::unique_ptr<PageStore>> adopt(Fds fds, const MigrationId& migration, uint32_t epoch);
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  // Takes the memory for that much before it is needed: a third of the cost of receiving over a fast link, and all of
  // it where a virtual machine has to ask its host. May run in a thread of its own while pages arrive. Failing is
  // harmless: the error comes again when the memory is really needed. ECANCELED when stopped.
  [[nodiscard]] Status reserve(uint64_t bytes, const std::stop_token& stop = {});

  // When nobody reads or brings pages any more: overwrites them and gives the memory back, piece by piece. What is left when it is
  // stopped goes back as it is; the kernel clears it before somebody else has it. Bytes that are left.
  uint64_t wipe(const std::stop_token& stop);

  // Borrowed descriptors, to be handed to the guardian.
  [[nodiscard]] std::array<int, 3> fds() const;

  // Where the bytes of runs are to be received: parts that together hold all their pages in order. Before sealing these
  // are the slots that the pages already have, else new ones; afterwards always new ones. ENOSPC when the store is
  // full.
  class Pending {
   public:
    [[nodiscard]] std::span<iovec> parts() { return parts_; }

   private:
    friend class PageStore;
    SpaceId space_ = 0;
    std::vector<PageRun> runs_;
    std::vector<uint32_t> slots_;  // one per page
    std::vector<iovec> parts_;
    uint64_t under_way_ = 0;  // number in under_way_, 0: not among them
  };
  [[nodiscard]] Result<Pending> prepare(SpaceId space, std::vector<PageRun> runs);
  // The bytes are in and verified. Gives the pages that are local now and were not before (after sealing: pages that
  // somebody else brought in first, or that the map does not call remote, are not among them and change nothing).
  [[nodiscard]] std::vector<PageRun> publish(Pending pending);
  // The bytes will not come: new slots are free again. Before sealing the pages' old contents are lost.
  void drop(Pending pending);
  // After sealing: the source says that these pages are zero.
  [[nodiscard]] std::vector<PageRun> publish_zero(SpaceId space, std::span<const PageRun> runs);

  // `payload` is the PAGE_MAP as it came, `spaces` its decoded form. Fails when a page that is neither remote nor in
  // the store is present.
  [[nodiscard]] Status seal(std::span<const std::byte> payload, std::vector<SpacePages> spaces);

  // The account of a standby's pages (PageProvider). Pages whose bytes are being received are not there.
  void begin_staging();
  [[nodiscard]] uint64_t staging_news() const { return news_.load(std::memory_order_acquire); }
  [[nodiscard]] PageSet unstaged(SpaceId space) const;
  [[nodiscard]] std::span<const std::byte> stage(SpaceId space, uint64_t page, uint64_t max);
  void unstage(SpaceId space, PageRun run);
  [[nodiscard]] PageSet staged(SpaceId space) const;

  [[nodiscard]] bool sealed() const { return sealed_.load(std::memory_order_acquire); }
  [[nodiscard]] PageProvider::Extent place(SpaceId space, uint64_t page, uint64_t max) const;
  [[nodiscard]] std::span<const std::byte> contents(SpaceId space, uint64_t page, uint64_t max) const;
  [[nodiscard]] std::vector<SpaceId> spaces() const;
  [[nodiscard]] const PageSet& present(SpaceId space) const;
  // Remote pages that have not arrived.
  [[nodiscard]] PageSet missing(SpaceId space) const;
  [[nodiscard]] uint64_t missing_pages() const { return missing_.load(std::memory_order_acquire); }
  [[nodiscard]] uint64_t slots_used() const;

 private:
  struct Space;
  PageStore() = default;
  [[nodiscard]] Status map_files(uint64_t slots_max);
  [[nodiscard]] Status load();
  [[nodiscard]] Status ensure_backed(uint64_t slots);
  [[nodiscard]] Status take_slots(uint64_t count, std::vector<uint32_t>& out);
  [[nodiscard]] Space* find(SpaceId space) const;
  [[nodiscard]] static PageSet unstaged_of(Space& space);
  [[nodiscard]] IndexHeader& header() const;
  [[nodiscard]] IndexEntry& entry(uint32_t slot) const;
  void free_slot(uint32_t slot);
  [[nodiscard]] uint64_t quiet_pages(SpaceId space, uint64_t page, uint64_t max) const;

  Fds fds_;
  std::byte* data_ = nullptr;
  std::byte* index_ = nullptr;
  uint64_t slots_max_ = 0;
  mutable std::mutex mutex_;                          // the maps below
  std::mutex backing_mutex_;                          // populating memory takes milliseconds: never under mutex_
  MemoryTaker taker_;                                 // under backing_mutex_
  std::atomic<uint64_t> slots_backed_{0};             // grows under backing_mutex_
  std::atomic<unsigned> backing_waiters_{0};          // who needs memory now: reserve() lets them pass
  uint64_t slots_next_ = 0;                           // never used yet
  PageSet free_;                                      // slots given back
  uint64_t slots_free_ = 0;                           // of them; counting them each time would take as long as all the rest
  std::map<SpaceId, std::unique_ptr<Space>> spaces_;  // unchanged once sealed
  // Before sealing: what has been prepared and neither published nor dropped, because a slot may be written meanwhile.
  std::map<uint64_t, std::pair<SpaceId, std::vector<PageRun>>> under_way_;
  uint64_t under_way_next_ = 0;
  bool staging_ = false;  // under mutex_
  std::atomic<uint64_t> news_{0};
  std::atomic<bool> sealed_{false};
  std::atomic<uint64_t> missing_{0};
};

}  // namespace mose::move
