// SPDX-License-Identifier: MIT
#include "move/page_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "move/codec.h"

namespace mose::move {
namespace {

constexpr uint64_t kIndexMagic = 0x58444e4945534f4d;  // "MOSEINDX"
constexpr uint32_t kIndexVersion = 1;
constexpr uint64_t kIndexHeaderBytes = 4096;
// Memory is taken in pieces of this size, populated at once: a page fault per page costs ten times more.
constexpr uint64_t kGrowSlots = 2048;
constexpr uint64_t kSlotsMax = 1ull << 31;  // 8 TiB
constexpr auto kReservePause = std::chrono::microseconds(50);
constexpr size_t kMaybeRunsLeast = 1u << 16;

// Values of a space's table.
using Slots = PageTable<uint32_t>;
constexpr uint32_t kNone = 0;
constexpr uint32_t kZero = UINT32_MAX;  // arrived as a zero page
constexpr uint32_t to_value(uint32_t slot) { return slot + 1; }
constexpr uint32_t to_slot(uint32_t value) { return value - 1; }
constexpr bool has_slot(uint32_t value) { return value != kNone && value != kZero; }

Result<Fd> make_memfd(const char* name) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) return fail_errno("memfd_create");
  return fd;
}

Result<std::byte*> map_shared(int fd, uint64_t bytes, int extra_flags) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | extra_flags, fd, 0);
  if (at == MAP_FAILED) return fail_errno("mmap of the page store");
  return static_cast<std::byte*>(at);
}

Result<uint64_t> file_size(int fd) {
  struct stat info{};
  if (fstat(fd, &info) != 0) return fail_errno("fstat of the page store");
  return static_cast<uint64_t>(info.st_size);
}

uint64_t index_bytes(uint64_t slots) { return kIndexHeaderBytes + slots * sizeof(PageStore::IndexEntry); }

void add_page(std::vector<PageRun>& runs, uint64_t page) {
  if (!runs.empty() && runs.back().end() == page) {
    ++runs.back().count;
  } else {
    runs.push_back({page, 1});
  }
}

// Answers contains() for ascending pages in O(1) each.
class Ascending {
 public:
  explicit Ascending(const PageSet& set) : at_(set.runs().begin()), end_(set.runs().end()) {}
  bool contains(uint64_t page) {
    while (at_ != end_ && at_->end() <= page) ++at_;
    return at_ != end_ && page >= at_->first;
  }

 private:
  std::vector<PageRun>::const_iterator at_, end_;
};

}  // namespace

struct PageStore::Space {
  Slots slots;
  PageSet present, remote;  // once sealed
  PageTable<uint8_t> staged;  // 1: the contents of the slot are those that were staged last
  // Where unstaged pages are to be looked for, in any order, and more than those; nothing: everywhere. A walk over all pages costs
  // a millisecond per 250 000, with everybody waiting who brings more.
  std::optional<std::vector<PageRun>> maybe_unstaged;
  size_t maybe_runs_max = kMaybeRunsLeast;  // then they are put in order

  void may_be_unstaged(PageRun run) {
    if (!maybe_unstaged) return;
    if (!maybe_unstaged->empty() && maybe_unstaged->back().end() == run.first) maybe_unstaged->back().count += run.count;
    else maybe_unstaged->push_back(run);
    if (maybe_unstaged->size() < maybe_runs_max) return;
    *maybe_unstaged = PageSet::from_runs(std::move(*maybe_unstaged)).runs();
    maybe_runs_max = std::max(kMaybeRunsLeast, 2 * maybe_unstaged->size());
  }
};

PageStore::~PageStore() {
  if (data_) munmap(data_, slots_max_ * kPageSize);
  if (index_) munmap(index_, index_bytes(slots_max_));
}

PageStore::IndexHeader& PageStore::header() const { return *reinterpret_cast<IndexHeader*>(index_); }

PageStore::IndexEntry& PageStore::entry(uint32_t slot) const {
  return reinterpret_cast<IndexEntry*>(index_ + kIndexHeaderBytes)[slot];
}

PageStore::Space* PageStore::find(SpaceId space) const {
  auto it = spaces_.find(space);
  return it == spaces_.end() ? nullptr : it->second.get();
}

std::array<int, 3> PageStore::fds() const { return {fds_.data.get(), fds_.index.get(), fds_.map.get()}; }

// Address space for all slots at once, so that neighbouring slots are neighbours in memory for ever.
Status PageStore::map_files(uint64_t slots_max) {
  MOSE_ASSIGN(data_, map_shared(fds_.data.get(), slots_max * kPageSize, MAP_NORESERVE));
  slots_max_ = slots_max;
  // Where the kernel allows huge pages for shared memory they make everything here cheaper.
  static_cast<void>(madvise(data_, slots_max * kPageSize, MADV_HUGEPAGE));
  MOSE_ASSIGN(index_, map_shared(fds_.index.get(), index_bytes(slots_max), MAP_NORESERVE));
  return {};
}

Result<std::unique_ptr<PageStore>> PageStore::create(const MigrationId& migration, uint32_t epoch,
                                                     uint64_t bytes_max) {
  static_assert(sizeof(IndexHeader) <= kIndexHeaderBytes && sizeof(IndexEntry) == 16);
  const uint64_t slots = std::clamp<uint64_t>(bytes_max / kPageSize, 1, kSlotsMax);
  std::unique_ptr<PageStore> store(new PageStore);
  // Where there is no such file small pages do, more slowly.
  auto data = huge_memory_file("mose-store-data");
  if (!data) {
    log::info("the page store has small pages", {{"reason", data.error().what}});
    data = make_memfd("mose-store-data");
  }
  MOSE_ASSIGN(store->fds_.data, std::move(data));
  MOSE_ASSIGN(store->fds_.index, make_memfd("mose-store-index"));
  MOSE_ASSIGN(store->fds_.map, make_memfd("mose-store-map"));
  // The index is sparse: its pages exist once they are written.
  if (ftruncate(store->fds_.index.get(), static_cast<off_t>(index_bytes(slots))) != 0) {
    return fail_errno("page store index");
  }
  MOSE_TRY(store->map_files(slots));
  IndexHeader& header = store->header();
  header.magic = kIndexMagic;
  header.version = kIndexVersion;
  header.slots_max = slots;
  header.migration = migration.bytes;
  header.epoch = epoch;
  return store;
}

Result<std::unique_ptr<PageStore>> PageStore::adopt(Fds fds, const MigrationId& migration, uint32_t epoch) {
  MOSE_ASSIGN(uint64_t size, file_size(fds.index.get()));
  IndexHeader found{};
  if (pread(fds.index.get(), &found, sizeof(found), 0) != static_cast<ssize_t>(sizeof(found)) ||
      found.magic != kIndexMagic || found.version != kIndexVersion || found.slots_max > kSlotsMax ||
      size != index_bytes(found.slots_max)) {
    return fail("page store: the index is none of ours");
  }
  if (found.migration != migration.bytes || found.epoch != epoch) return fail("page store of another migration");
  if (found.sealed != 1) return fail("page store was not complete enough to go on: its page map had not arrived");
  std::unique_ptr<PageStore> store(new PageStore);
  store->fds_ = std::move(fds);
  MOSE_TRY(store->map_files(found.slots_max));
  MOSE_TRY(store->load());
  return store;
}

// Rebuilds the tables from the files.
Status PageStore::load() {
  MOSE_ASSIGN(uint64_t map_size, file_size(fds_.map.get()));
  if (map_size != header().map_length || map_size > wire::kPageMapPayloadMax) return fail("page store: map is damaged");
  std::vector<std::byte> payload(map_size);
  if (pread(fds_.map.get(), payload.data(), payload.size(), 0) != static_cast<ssize_t>(payload.size())) {
    return fail_errno("page store: map");
  }
  MOSE_ASSIGN(std::vector<SpacePages> pages, decode_page_map(payload));
  for (SpacePages& from : pages) {
    auto space = std::make_unique<Space>();
    space->present = std::move(from.present);
    space->remote = std::move(from.remote);
    spaces_.emplace(from.space, std::move(space));
  }
  MOSE_ASSIGN(uint64_t data_size, file_size(fds_.data.get()));
  const uint64_t slots = std::min(data_size / kPageSize, slots_max_);
  slots_backed_ = slots;
  slots_next_ = slots;
  uint64_t expected = 0;
  for (const auto& [id, space] : spaces_) expected += space->present.pages();
  uint64_t found = 0;
  for (uint32_t slot = 0; slot < slots; ++slot) {
    const IndexEntry& at = entry(slot);
    Space* space = at.used == 1 ? find(at.space) : nullptr;
    if (space == nullptr || !space->present.contains(at.page) || space->slots.get(at.page) != kNone) {
      free_slot(slot);
      continue;
    }
    space->slots.set(at.page, to_value(slot));
    ++found;
  }
  uint64_t absent = 0;
  for (const auto& [id, space] : spaces_) absent += missing(id).pages();
  if (found + absent != expected) return fail("page store: pages of the map are missing in the index");
  missing_ = absent;
  if (slots != 0) static_cast<void>(madvise(data_, slots * kPageSize, MADV_POPULATE_READ));
  sealed_.store(true, std::memory_order_release);
  return {};
}

// Memory behind the first `slots` slots.
Status PageStore::ensure_backed(uint64_t slots) {
  if (slots <= slots_backed_.load(std::memory_order_acquire)) return {};
  backing_waiters_.fetch_add(1);
  std::lock_guard lock(backing_mutex_);
  backing_waiters_.fetch_sub(1);
  while (slots_backed_.load() < slots) {
    const uint64_t backed = slots_backed_.load();
    uint64_t grown = std::min(backed + kGrowSlots, slots_max_);
    auto taken = taker_.take(fds_.data.get(), data_, backed * kPageSize, (grown - backed) * kPageSize);
    if (!taken) return context("no memory for the page store", taken.error());
    slots_backed_.store(grown, std::memory_order_release);
  }
  return {};
}

Status PageStore::reserve(uint64_t bytes, const std::stop_token& stop) {
  const uint64_t wanted = std::min(bytes / kPageSize, slots_max_);
  // Step by step, so that a receiver that needs its next piece waits for one step only. A mutex alone would not see to that:
  // who takes it again at once is faster than a waiter wakes up.
  for (uint64_t slots = kGrowSlots; slots <= wanted && !sealed(); slots += kGrowSlots) {
    while (backing_waiters_.load() != 0) std::this_thread::sleep_for(kReservePause);
    if (stop.stop_requested()) return fail_errno("reserving memory", ECANCELED);
    MOSE_TRY(ensure_backed(slots));
  }
  return {};
}

uint64_t PageStore::wipe(const std::stop_token& stop) {
  std::lock_guard lock(backing_mutex_);
  const uint64_t backed = slots_backed_.load();
  uint64_t slot = 0;
  for (; slot < backed && !stop.stop_requested(); slot += kGrowSlots) {
    const uint64_t at = slot * kPageSize, bytes = std::min(kGrowSlots, backed - slot) * kPageSize;
    std::memset(data_ + at, 0, bytes);
    (void)fallocate(fds_.data.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(at), static_cast<off_t>(bytes));
  }
  return (backed - std::min(slot, backed)) * kPageSize;
}

// `count` slots, neighbours as far as possible. Under mutex_.
Status PageStore::take_slots(uint64_t count, std::vector<uint32_t>& out) {
  if (slots_max_ - slots_next_ + slots_free_ < count) return fail_errno("page store is full", ENOSPC);
  auto take = [&](PageRun run) {
    for (uint64_t i = 0; i < run.count; ++i) out.push_back(static_cast<uint32_t>(run.first + i));
  };
  auto take_free = [&](PageRun run) {
    free_.remove(run);
    slots_free_ -= run.count;
    take(run);
  };
  // A hole that holds them all, else fresh slots, else whatever is free; from the end, because what is taken elsewhere makes the rest
  // of the set move up.
  auto hole = std::find_if(free_.runs().rbegin(), free_.runs().rend(), [&](const PageRun& r) { return r.count >= count; });
  if (hole != free_.runs().rend()) {
    take_free({hole->end() - count, count});
    return {};
  }
  uint64_t fresh = std::min(count, slots_max_ - slots_next_);
  // Memory that is not there yet has to be cleared, which takes longer than to receive, and after sealing the workload waits:
  // what held stale pages is there.
  if (sealed_.load(std::memory_order_relaxed) && slots_free_ >= count && slots_next_ + count > slots_backed_.load()) fresh = 0;
  if (fresh != 0) take({slots_next_, fresh});
  slots_next_ += fresh;
  count -= fresh;
  while (count != 0) {
    PageRun run = free_.runs().back();
    if (run.count > count) run = {run.end() - count, count};
    take_free(run);
    count -= run.count;
  }
  return {};
}

void PageStore::free_slot(uint32_t slot) {
  if (free_.contains(slot)) return;
  free_.add({slot, 1});
  ++slots_free_;
}

Result<PageStore::Pending> PageStore::prepare(SpaceId space_id, std::vector<PageRun> runs) {
  Pending pending;
  pending.space_ = space_id;
  pending.runs_ = std::move(runs);
  {
    std::lock_guard lock(mutex_);
    const bool sealed = sealed_.load(std::memory_order_relaxed);
    Space* space = find(space_id);
    if (space == nullptr) {
      if (sealed) return fail("pages of a space that the page map does not name");
      if (spaces_.size() == wire::kSpacesMax) return fail("pages of too many spaces");
      space = (spaces_[space_id] = std::make_unique<Space>()).get();
    }
    std::vector<uint32_t> values;
    for (const PageRun& run : pending.runs_) {
      for (uint64_t page = run.first; page < run.end(); ++page) {
        values.push_back(sealed ? kNone : space->slots.get(page));
      }
    }
    auto wanted = static_cast<uint64_t>(std::count(values.begin(), values.end(), kNone));
    std::vector<uint32_t> fresh;
    if (wanted != 0) MOSE_TRY(take_slots(wanted, fresh));
    auto next = fresh.begin();
    pending.slots_.reserve(values.size());
    for (uint32_t value : values) pending.slots_.push_back(value == kNone ? *next++ : to_slot(value));
    if (!sealed) {
      // Before the first byte comes in: who copies from a slot now sees afterwards that it cannot count on the copy.
      if (staging_) {
        for (const PageRun& run : pending.runs_) {
          for (uint64_t page = run.first; page < run.end(); ++page) {
            if (space->staged.get(page) == 0) continue;
            space->staged.set(page, 0);
            space->may_be_unstaged({page, 1});
          }
        }
      }
      pending.under_way_ = ++under_way_next_;
      under_way_.emplace(pending.under_way_, std::pair(space_id, pending.runs_));
    }
  }
  uint32_t highest = 0;
  for (uint32_t slot : pending.slots_) {
    highest = std::max(highest, slot);
    std::byte* at = data_ + slot * kPageSize;
    if (!pending.parts_.empty() && static_cast<std::byte*>(pending.parts_.back().iov_base) +
                                           pending.parts_.back().iov_len == at) {
      pending.parts_.back().iov_len += kPageSize;
    } else {
      pending.parts_.push_back({at, kPageSize});
    }
  }
  if (Status backed = ensure_backed(highest + 1ull); !backed) {
    drop(std::move(pending));
    return std::unexpected(std::move(backed.error()));
  }
  return pending;
}

std::vector<PageRun> PageStore::publish(Pending pending) {
  std::vector<PageRun> local;
  std::lock_guard lock(mutex_);
  const bool sealed = sealed_.load(std::memory_order_relaxed);
  Space* space = find(pending.space_);
  MOSE_CHECK(space != nullptr, "prepare() has made the space");
  if (pending.under_way_ != 0) under_way_.erase(pending.under_way_);
  auto slot = pending.slots_.begin();
  uint64_t arrived = 0;
  for (const PageRun& run : pending.runs_) {
    for (uint64_t page = run.first; page < run.end(); ++page, ++slot) {
      if (sealed && (space->slots.get(page) != kNone || !space->remote.contains(page))) {
        free_slot(*slot);
        continue;
      }
      space->slots.set(page, to_value(*slot));
      IndexEntry& at = entry(*slot);
      at.page = page;
      at.space = pending.space_;
      std::atomic_ref(at.used).store(1, std::memory_order_release);
      add_page(local, page);
      ++arrived;
    }
    if (!sealed && staging_) space->may_be_unstaged(run);
  }
  if (sealed) missing_.fetch_sub(arrived, std::memory_order_acq_rel);
  news_.fetch_add(1, std::memory_order_acq_rel);
  return local;
}

std::vector<PageRun> PageStore::publish_zero(SpaceId space_id, std::span<const PageRun> runs) {
  std::vector<PageRun> local;
  std::lock_guard lock(mutex_);
  Space* space = find(space_id);
  if (space == nullptr || !sealed_.load(std::memory_order_relaxed)) return local;
  for (const PageRun& run : runs) {
    for (uint64_t page = run.first; page < run.end(); ++page) {
      if (!space->remote.contains(page) || space->slots.get(page) != kNone) continue;
      space->slots.set(page, kZero);
      add_page(local, page);
      missing_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
  return local;
}

// Stays under way for ever when it had been prepared before sealing: a slot with half of its bytes is staged by nobody.
void PageStore::drop(Pending pending) {
  std::lock_guard lock(mutex_);
  Space* space = find(pending.space_);
  if (space == nullptr) return;
  auto slot = pending.slots_.begin();
  for (const PageRun& run : pending.runs_) {
    for (uint64_t page = run.first; page < run.end(); ++page, ++slot) {
      if (space->slots.get(page) != to_value(*slot)) free_slot(*slot);
    }
  }
}

Status PageStore::seal(std::span<const std::byte> payload, std::vector<SpacePages> pages) {
  std::lock_guard lock(mutex_);
  if (sealed_.load(std::memory_order_relaxed)) return fail("a second page map");
  uint64_t missing = 0;
  std::vector<uint32_t> stale;
  std::map<SpaceId, std::unique_ptr<Space>> sealed_spaces;
  for (SpacePages& from : pages) {
    std::unique_ptr<Space> space = std::make_unique<Space>();
    if (auto it = spaces_.find(from.space); it != spaces_.end()) {
      space = std::move(it->second);
      spaces_.erase(it);
    }
    // What was pre-copied and is still right stays; everything else in the store is stale.
    PageSet keep = from.present.minus(from.remote);
    Ascending kept(keep);
    uint64_t found = 0;
    std::vector<uint64_t> stale_pages;
    space->slots.for_each([&](uint64_t page, uint32_t value) {
      if (kept.contains(page)) {
        ++found;
        return;
      }
      stale.push_back(to_slot(value));
      stale_pages.push_back(page);
    });
    if (found != keep.pages()) {
      return fail("page map of space " + std::to_string(from.space) + " counts on " +
                  std::to_string(keep.pages() - found) + " pages that were never sent");
    }
    for (uint64_t page : stale_pages) {
      space->slots.set(page, kNone);
      if (space->staged.get(page) != 0) space->staged.set(page, 0);
    }
    missing += from.remote.pages();
    space->present = std::move(from.present);
    space->remote = std::move(from.remote);
    sealed_spaces.emplace(from.space, std::move(space));
  }
  for (const auto& [id, space] : spaces_) {
    space->slots.for_each([&](uint64_t, uint32_t value) { stale.push_back(to_slot(value)); });
  }
  spaces_ = std::move(sealed_spaces);
  under_way_.clear();
  std::sort(stale.begin(), stale.end());
  for (uint32_t slot : stale) {
    entry(slot).used = 0;
    free_slot(slot);
  }
  if (ftruncate(fds_.map.get(), static_cast<off_t>(payload.size())) != 0 ||
      pwrite(fds_.map.get(), payload.data(), payload.size(), 0) != static_cast<ssize_t>(payload.size())) {
    return fail_errno("page store: map");
  }
  header().map_length = payload.size();
  std::atomic_ref(header().sealed).store(1, std::memory_order_release);
  missing_ = missing;
  sealed_.store(true, std::memory_order_release);
  return {};
}

void PageStore::begin_staging() {
  std::lock_guard lock(mutex_);
  staging_ = true;
  for (auto& [id, space] : spaces_) {
    space->staged.clear();
    space->maybe_unstaged.reset();
  }
  news_.fetch_add(1, std::memory_order_acq_rel);
}

// How many pages from `page` on, at most `max`, nobody is receiving bytes for. Under mutex_.
uint64_t PageStore::quiet_pages(SpaceId space, uint64_t page, uint64_t max) const {
  for (const auto& [number, one] : under_way_) {
    if (one.first != space) continue;
    const std::vector<PageRun>& runs = one.second;  // ascending
    auto next = std::ranges::upper_bound(runs, page, {}, &PageRun::first);
    if (next != runs.begin() && page < std::prev(next)->end()) return 0;
    if (next != runs.end()) max = std::min(max, next->first - page);
  }
  return max;
}

PageSet PageStore::unstaged(SpaceId space_id) const {
  std::lock_guard lock(mutex_);
  Space* space = find(space_id);
  if (space == nullptr || !staging_ || sealed_.load(std::memory_order_relaxed)) return {};
  PageSet out = unstaged_of(*space);
  space->maybe_unstaged = out.runs();
  return out;
}

// Under mutex_.
PageSet PageStore::unstaged_of(Space& space) {
  std::vector<PageRun> runs;
  const PageTable<uint8_t>::Block* block = nullptr;
  uint64_t block_number = ~uint64_t{0};
  auto look = [&](uint64_t page, uint32_t value) {
    if (!has_slot(value)) return;
    if (page / PageTable<uint8_t>::kBlockPages != block_number) {
      block_number = page / PageTable<uint8_t>::kBlockPages;
      block = space.staged.find_block(page);
    }
    if (block == nullptr || (*block)[page % PageTable<uint8_t>::kBlockPages] == 0) add_page(runs, page);
  };
  if (space.maybe_unstaged) {
    const PageSet maybe = PageSet::from_runs(std::move(*space.maybe_unstaged));
    for (const PageRun& run : maybe.runs()) {
      for (uint64_t page = run.first; page < run.end(); ++page) look(page, space.slots.get(page));
    }
  } else {
    space.slots.for_each(look);
  }
  return PageSet::from_runs(std::move(runs));
}

std::span<const std::byte> PageStore::stage(SpaceId space_id, uint64_t page, uint64_t max) {
  std::lock_guard lock(mutex_);
  Space* space = find(space_id);
  if (space == nullptr || !staging_ || sealed_.load(std::memory_order_relaxed)) return {};
  const uint32_t value = space->slots.get(page);
  if (!has_slot(value)) return {};
  max = quiet_pages(space_id, page, max);
  uint64_t count = 0;
  while (count < max && space->slots.get(page + count) == value + count) {
    space->staged.set(page + count, 1);
    ++count;
  }
  return {data_ + to_slot(value) * kPageSize, count * kPageSize};
}

void PageStore::unstage(SpaceId space_id, PageRun run) {
  std::lock_guard lock(mutex_);
  Space* space = find(space_id);
  if (space == nullptr) return;
  for (uint64_t page = run.first; page < run.end(); ++page) {
    if (space->staged.get(page) != 0) space->staged.set(page, 0);
  }
  if (!sealed_.load(std::memory_order_relaxed)) space->may_be_unstaged(run);
  news_.fetch_add(1, std::memory_order_acq_rel);
}

PageSet PageStore::staged(SpaceId space_id) const {
  std::vector<PageRun> runs;
  std::lock_guard lock(mutex_);
  const Space* space = find(space_id);
  if (space == nullptr) return {};
  space->staged.for_each([&](uint64_t page, uint8_t) { add_page(runs, page); });
  return PageSet::from_runs(std::move(runs));
}

PageProvider::Extent PageStore::place(SpaceId space_id, uint64_t page, uint64_t max) const {
  max = std::max<uint64_t>(max, 1);
  if (!sealed()) return {PagePlace::unknown, max};
  const Space* space = find(space_id);
  if (space == nullptr) return {PagePlace::zero, max};
  const PageRun run = space->present.run_from(page);
  if (run.count == 0) {
    const auto& runs = space->present.runs();
    auto next = std::upper_bound(runs.begin(), runs.end(), page, [](uint64_t p, const PageRun& r) { return p < r.first; });
    return {PagePlace::zero, next == runs.end() ? max : std::min(max, next->first - page)};
  }
  std::lock_guard lock(mutex_);
  auto place_of = [&](uint64_t p) {
    uint32_t value = space->slots.get(p);
    if (value == kNone) return PagePlace::remote;
    return value == kZero ? PagePlace::zero : PagePlace::local;
  };
  PageProvider::Extent extent{place_of(page), 1};
  max = std::min(max, run.count);
  while (extent.count < max && place_of(page + extent.count) == extent.place) ++extent.count;
  return extent;
}

std::span<const std::byte> PageStore::contents(SpaceId space_id, uint64_t page, uint64_t max) const {
  if (!sealed()) return {};
  const Space* space = find(space_id);
  if (space == nullptr) return {};
  std::lock_guard lock(mutex_);
  uint32_t value = space->slots.get(page);
  if (!has_slot(value)) return {};
  uint64_t count = 1;
  while (count < max && space->slots.get(page + count) == value + count && has_slot(value + count)) ++count;
  return {data_ + to_slot(value) * kPageSize, count * kPageSize};
}

std::vector<SpaceId> PageStore::spaces() const {
  std::vector<SpaceId> ids;
  if (!sealed()) return ids;
  for (const auto& [id, space] : spaces_) {
    if (!space->present.empty()) ids.push_back(id);
  }
  return ids;
}

const PageSet& PageStore::present(SpaceId space_id) const {
  static const PageSet kEmpty;
  const Space* space = sealed() ? find(space_id) : nullptr;
  return space == nullptr ? kEmpty : space->present;
}

PageSet PageStore::missing(SpaceId space_id) const {
  PageSet out;
  const Space* space = find(space_id);
  if (space == nullptr) return out;
  std::lock_guard lock(mutex_);
  for (const PageRun& run : space->remote.runs()) {
    for (uint64_t page = run.first; page < run.end(); ++page) {
      if (space->slots.get(page) == kNone) out.add({page, 1});
    }
  }
  return out;
}

uint64_t PageStore::slots_used() const {
  std::lock_guard lock(mutex_);
  return slots_next_ - slots_free_;
}

}  // namespace mose::move
