// SPDX-License-Identifier: MIT
#include "restore/pager_state.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

#include "base/check.h"

namespace mose::restore {
namespace {

constexpr uint64_t kMagic = 0x4552474150534d4d;
constexpr uint32_t kVersion = 2;
constexpr uint64_t kWordBits = 64;

}  // namespace

struct PagerState::Version {
  uint64_t segments;        // offset of the list
  uint64_t count;
  uint64_t remap_message;   // the last REMAP that the list contains
  uint64_t moved;           // 1: after any REMAP, so that the list is not in the order of source pages
};

struct PagerState::Record {
  uint32_t source;
  int32_t uffd;
  std::atomic<uint32_t> state;
  std::atomic<uint32_t> active;  // which version counts
  Version version[2];
  uint32_t parent;               // space + 1, 0: not forked
  uint32_t reserved;
  uint64_t fork_message;         // the parent's message that made it
  std::atomic<uint64_t> touched_first;  // offsets of chunks, 0: none
  std::atomic<uint64_t> touched_last;
  std::atomic<uint64_t> message; // number of the message in the slot
  UffdMessage slot;
};

// A part of the list of a standby's pages; only ever appended to.
struct PagerState::TouchChunk {
  static constexpr uint64_t kRuns = 254;
  struct Run {
    uint64_t first;
    std::atomic<uint64_t> count;
  };
  std::atomic<uint64_t> next;
  std::atomic<uint64_t> used;
  Run runs[kRuns];
};

namespace {
constexpr uint64_t kRecordsAt = 4096;
}  // namespace

Result<std::unique_ptr<PagerState>> PagerState::create(const MigrationId& id) {
  std::unique_ptr<PagerState> state(new PagerState);
  state->memfd_ = Fd(::memfd_create(std::string(kStateName).c_str(), MFD_CLOEXEC));
  if (!state->memfd_) return fail_errno("memfd of the pager's state");
  if (::ftruncate(state->memfd_.get(), static_cast<off_t>(kStateBytesMax)) != 0)
    return fail_errno("size of the pager's state");
  MOSE_TRY(state->map());
  Header& header = state->header();
  header.magic = kMagic;
  header.version = kVersion;
  header.migration = id.bytes;
  header.next_free = kRecordsAt + sizeof(Record) * kStateSpacesMax;
  return state;
}

Result<std::unique_ptr<PagerState>> PagerState::adopt(Fd memfd, const MigrationId& id) {
  std::unique_ptr<PagerState> state(new PagerState);
  off_t size = ::lseek(memfd.get(), 0, SEEK_END);
  if (size != static_cast<off_t>(kStateBytesMax)) return fail("pager state: wrong size");
  state->memfd_ = std::move(memfd);
  MOSE_TRY(state->map());
  MOSE_TRY(state->check(id));
  return state;
}

PagerState::~PagerState() {
  if (base_ != nullptr) ::munmap(base_, kStateBytesMax);
}

Status PagerState::map() {
  static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(Header) <= kRecordsAt);
  void* at = ::mmap(nullptr, kStateBytesMax, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd_.get(), 0);
  if (at == MAP_FAILED) return fail_errno("map the pager's state");
  base_ = static_cast<std::byte*>(at);
  return {};
}

Status PagerState::check(const MigrationId& id) const {
  const auto& header = *reinterpret_cast<const Header*>(base_);
  if (header.magic != kMagic || header.version != kVersion) return fail("pager state: not one of ours");
  if (header.migration != id.bytes) return fail("pager state: of another migration");
  uint64_t end = header.next_free;
  if (header.spaces > kStateSpacesMax || end > kStateBytesMax) return fail("pager state: damaged header");
  for (uint32_t i = 0; i < header.spaces; ++i) {
    const Record& r = record(i);
    if (r.active > 1 || r.state > static_cast<uint32_t>(SpaceState::forgotten)) return fail("pager state: damaged space");
    const Version& v = r.version[r.active];
    if (v.segments > end || v.count > (end - v.segments) / sizeof(Segment)) return fail("pager state: damaged list");
    for (const Segment& s : segments(i))
      if (s.bit > end * 8 || s.count > end * 8 - s.bit) return fail("pager state: damaged segment");
    MOSE_TRY(check_touched(r, end));
  }
  return {};
}

Status PagerState::check_touched(const Record& record, uint64_t end) const {
  uint64_t last = 0;
  for (uint64_t at = record.touched_first; at != 0; at = chunk(at).next) {
    // Chunks follow each other in memory, so that a damaged list has an end, too.
    if (at <= last || at > end - sizeof(TouchChunk) || chunk(at).used > TouchChunk::kRuns)
      return fail("pager state: damaged list of a standby's pages");
    last = at;
  }
  return {};
}

PagerState::TouchChunk& PagerState::chunk(uint64_t at) const { return *reinterpret_cast<TouchChunk*>(base_ + at); }

PagerState::Header& PagerState::header() { return *reinterpret_cast<Header*>(base_); }

uint32_t PagerState::spaces() const { return reinterpret_cast<const Header*>(base_)->spaces; }

PagerState::Record& PagerState::record(uint32_t space) const {
  MOSE_CHECK(space < kStateSpacesMax, "a space of the pager's state");
  return reinterpret_cast<Record*>(base_ + kRecordsAt)[space];
}

std::span<const Segment> PagerState::segments(uint32_t space) const {
  const Record& r = record(space);
  const Version& v = r.version[r.active.load(std::memory_order_acquire)];
  return {reinterpret_cast<const Segment*>(base_ + v.segments), v.count};
}

Result<uint64_t> PagerState::allocate(uint64_t bytes) {
  // Whole cache lines, so that two spaces' bits never share a word.
  bytes = (bytes + 63) & ~uint64_t{63};
  uint64_t at = header().next_free.load();
  if (bytes > kStateBytesMax - at) return fail("the pager's state is full");
  header().next_free.store(at + bytes);
  return at;
}

Result<uint32_t> PagerState::add_space(SpaceId source, int uffd) {
  std::lock_guard lock(mutex_);
  uint32_t space = header().spaces;
  if (space == kStateSpacesMax) return fail("more than " + std::to_string(kStateSpacesMax) + " address spaces");
  Record& r = record(space);
  r.source = source;
  r.uffd = uffd;
  r.state = static_cast<uint32_t>(SpaceState::bare);
  header().spaces.store(space + 1, std::memory_order_release);
  return space;
}

Result<uint32_t> PagerState::add_fork(uint32_t parent, uint64_t message, int uffd) {
  std::lock_guard lock(mutex_);
  uint32_t count = header().spaces;
  for (uint32_t i = 0; i < count; ++i)
    if (record(i).parent == parent + 1 && record(i).fork_message == message) return i;
  if (count == kStateSpacesMax) return fail("more than " + std::to_string(kStateSpacesMax) + " address spaces");

  auto list = segments(parent);
  std::vector<Segment> copy(list.begin(), list.end());
  for (Segment& s : copy) {
    // Whole words, with the first bit at the same place in its word.
    uint64_t shift = s.bit % kWordBits;
    uint64_t bytes = (shift + s.count + kWordBits - 1) / kWordBits * sizeof(uint64_t);
    MOSE_ASSIGN(uint64_t at, allocate(bytes));
    std::memcpy(base_ + at, words() + s.bit / kWordBits, bytes);
    s.bit = at * 8 + shift;
  }
  MOSE_ASSIGN(uint64_t at, allocate(copy.size() * sizeof(Segment)));
  std::ranges::copy(copy, reinterpret_cast<Segment*>(base_ + at));
  Record& r = record(count);
  r.source = record(parent).source;
  r.uffd = uffd;
  const Record& old = record(parent);
  r.version[0] = {
      .segments = at, .count = copy.size(), .remap_message = 0, .moved = old.version[old.active].moved};
  r.active = 0;
  r.parent = parent + 1;
  r.fork_message = message;
  r.state = record(parent).state.load();
  header().spaces.store(count + 1, std::memory_order_release);
  return count;
}

Status PagerState::set_pages(uint32_t space, const PageSet& present) {
  std::lock_guard lock(mutex_);
  Record& r = record(space);
  MOSE_CHECK(r.state == static_cast<uint32_t>(SpaceState::bare), "pages are given to a space once");
  const auto& runs = present.runs();
  MOSE_ASSIGN(uint64_t list_at, allocate(runs.size() * sizeof(Segment)));
  MOSE_ASSIGN(uint64_t bits_at, allocate((present.pages() + 7) / 8));
  auto* list = reinterpret_cast<Segment*>(base_ + list_at);
  uint64_t bit = bits_at * 8;
  for (const PageRun& run : runs) {
    *list++ = {.first = run.first, .count = run.count, .source = run.first, .bit = bit};
    bit += run.count;
  }
  r.version[0] = {.segments = list_at, .count = runs.size(), .remap_message = 0, .moved = 0};
  r.active.store(0, std::memory_order_release);
  r.state.store(static_cast<uint32_t>(SpaceState::serving), std::memory_order_release);
  return {};
}

SpaceId PagerState::source(uint32_t space) const { return record(space).source; }
int PagerState::uffd(uint32_t space) const { return record(space).uffd; }
SpaceState PagerState::state(uint32_t space) const { return static_cast<SpaceState>(record(space).state.load()); }
void PagerState::set_state(uint32_t space, SpaceState state) { record(space).state = static_cast<uint32_t>(state); }

UffdMessage& PagerState::begin_read(uint32_t space) {
  Record& r = record(space);
  r.slot = {};
  r.message.fetch_add(1, std::memory_order_release);
  return r.slot;
}

uint64_t PagerState::message_number(uint32_t space) const { return record(space).message; }

void PagerState::end_read(uint32_t space) {
  std::atomic_signal_fence(std::memory_order_release);
  record(space).slot = {};
}

const UffdMessage& PagerState::slot(uint32_t space) const { return record(space).slot; }

void PagerState::set_fork_fd(uint32_t space, int fd) { set_fork_descriptor(record(space).slot, fd); }

// Length of the run of equal bits that starts at `bit`.
uint64_t PagerState::run_of(uint64_t bit, uint64_t count, bool set) const {
  uint64_t done = 0;
  while (done < count) {
    uint64_t at = bit + done;
    uint64_t word = words()[at / kWordBits] >> (at % kWordBits);
    if (!set) word = ~word;
    uint64_t room = std::min(kWordBits - at % kWordBits, count - done);
    auto same = static_cast<uint64_t>(std::countr_one(word));
    if (same < room) return done + same;
    done += room;
  }
  return count;
}

std::optional<PagerState::Missing> PagerState::missing_at(uint32_t space, uint64_t page, uint64_t max) const {
  auto list = segments(space);
  auto it = std::upper_bound(list.begin(), list.end(), page, [](uint64_t p, const Segment& s) { return p < s.first; });
  if (it == list.begin()) return {};
  --it;
  uint64_t at = page - it->first;
  if (at >= it->count) return {};
  uint64_t count = run_of(it->bit + at, std::min(max, it->count - at), false);
  if (count == 0) return {};
  return Missing{.now = {page, count}, .source = it->source + at};
}

void PagerState::missing_of_source(uint32_t space, PageRun wanted, size_t limit, std::vector<Missing>& out) const {
  auto list = segments(space);
  auto begin = list.begin();
  const bool sorted = record(space).version[record(space).active].moved == 0;
  if (sorted)
    begin = std::partition_point(list.begin(), list.end(),
                                 [&](const Segment& s) { return s.source + s.count <= wanted.first; });
  for (auto it = begin; it != list.end() && out.size() < limit; ++it) {
    if (sorted && it->source >= wanted.end()) break;
    uint64_t first = std::max(wanted.first, it->source);
    uint64_t end = std::min(wanted.end(), it->source + it->count);
    while (first < end && out.size() < limit) {
      uint64_t at = first - it->source;
      first += run_of(it->bit + at, end - first, true);
      if (first >= end) break;
      at = first - it->source;
      uint64_t count = run_of(it->bit + at, end - first, false);
      out.push_back({.now = {it->first + at, count}, .source = first});
      first += count;
    }
  }
}

PageSet PagerState::missing_sources(uint32_t space) const {
  std::vector<Missing> missing;
  missing_of_source(space, {0, ~uint64_t{0}}, SIZE_MAX, missing);
  std::vector<PageRun> runs;
  runs.reserve(missing.size());
  for (const Missing& m : missing) runs.push_back({m.source, m.now.count});
  return PageSet::from_runs(std::move(runs));
}

uint64_t PagerState::missing_count(uint32_t space) const {
  std::vector<Missing> missing;
  missing_of_source(space, {0, ~uint64_t{0}}, SIZE_MAX, missing);
  uint64_t sum = 0;
  for (const Missing& m : missing) sum += m.now.count;
  return sum;
}

uint64_t PagerState::pages_count(uint32_t space) const {
  uint64_t sum = 0;
  for (const Segment& s : segments(space)) sum += s.count;
  return sum;
}

Status PagerState::touch(uint32_t space, PageRun run) {
  Record& r = record(space);
  if (r.touched_last != 0) {
    TouchChunk& last = chunk(r.touched_last);
    uint64_t used = last.used;
    if (TouchChunk::Run& old = last.runs[used - 1]; old.first + old.count == run.first) {
      old.count.store(old.count + run.count, std::memory_order_release);
      return {};
    }
    if (used < TouchChunk::kRuns) {
      last.runs[used].first = run.first;
      last.runs[used].count = run.count;
      last.used.store(used + 1, std::memory_order_release);
      return {};
    }
  }
  std::lock_guard lock(mutex_);
  MOSE_ASSIGN(uint64_t at, allocate(sizeof(TouchChunk)));
  TouchChunk& made = chunk(at);
  made.runs[0].first = run.first;
  made.runs[0].count = run.count;
  made.used = 1;
  auto& link = r.touched_last == 0 ? r.touched_first : chunk(r.touched_last).next;
  link.store(at, std::memory_order_release);
  r.touched_last.store(at, std::memory_order_release);
  return {};
}

PageSet PagerState::touched(uint32_t space) const {
  std::vector<PageRun> runs;
  for (uint64_t at = record(space).touched_first.load(std::memory_order_acquire); at != 0;
       at = chunk(at).next.load(std::memory_order_acquire)) {
    const TouchChunk& one = chunk(at);
    uint64_t used = one.used.load(std::memory_order_acquire);
    for (uint64_t i = 0; i < used; ++i) runs.push_back({one.runs[i].first, one.runs[i].count});
  }
  return PageSet::from_runs(std::move(runs));
}

void PagerState::forget_standby() {
  Header& h = header();
  // First: a pager that adopts what was left half done finds a restore that has not ended, as after a drop.
  h.restore_ended = 0;
  for (uint32_t i = 0; i < spaces(); ++i) set_state(i, SpaceState::forgotten);
  h.thawed = h.fenced = h.zombies = 0;
  h.fork_events = h.remap_events = h.remove_events = 0;
  h.faults = h.zero_faults = h.remote_faults = 0;
  h.first_fault_us = 0;
  h.refreshed = 0;
  h.standby = 0;
}

uint64_t PagerState::mark(uint32_t space, PageRun run) { return set_bits(space, run, true); }

uint64_t PagerState::unmark(uint32_t space, PageRun run) { return set_bits(space, run, false); }

// How many bits have changed.
uint64_t PagerState::set_bits(uint32_t space, PageRun run, bool value) {
  uint64_t changed = 0;
  auto list = segments(space);
  auto it = std::partition_point(list.begin(), list.end(),
                                 [&](const Segment& s) { return s.first + s.count <= run.first; });
  for (; it != list.end() && it->first < run.end(); ++it) {
    uint64_t from = std::max(run.first, it->first) - it->first;
    uint64_t to = std::min(run.end(), it->first + it->count) - it->first;
    while (from < to) {
      uint64_t bit = it->bit + from;
      uint64_t room = std::min(kWordBits - bit % kWordBits, to - from);
      uint64_t mask = (room == kWordBits ? ~uint64_t{0} : (uint64_t{1} << room) - 1) << (bit % kWordBits);
      uint64_t& word = words()[bit / kWordBits];
      changed += static_cast<uint64_t>(std::popcount(mask & (value ? ~word : word)));
      word = value ? word | mask : word & ~mask;
      from += room;
    }
  }
  return changed;
}

Status PagerState::switch_to(uint32_t space, const std::vector<Segment>& list, uint64_t message) {
  std::lock_guard lock(mutex_);
  MOSE_ASSIGN(uint64_t at, allocate(list.size() * sizeof(Segment)));
  std::ranges::copy(list, reinterpret_cast<Segment*>(base_ + at));
  Record& r = record(space);
  uint32_t next = 1 - r.active.load();
  r.version[next] = {.segments = at, .count = list.size(), .remap_message = message, .moved = 1};
  r.active.store(next, std::memory_order_release);
  return {};
}

namespace {

// The part of `s` that lies in `run`; count 0 when there is none.
Segment cut(const Segment& s, PageRun run) {
  uint64_t first = std::max(s.first, run.first);
  uint64_t end = std::min(s.first + s.count, run.end());
  if (first >= end) return {};
  uint64_t at = first - s.first;
  return {.first = first, .count = end - first, .source = s.source + at, .bit = s.bit + at};
}

}  // namespace

Status PagerState::remap(uint32_t space, uint64_t message, PageRun from, uint64_t to) {
  if (record(space).version[record(space).active].remap_message == message) return {};
  std::vector<Segment> next;
  auto keep = [&](const Segment& s) {
    if (s.count != 0) next.push_back(s);
  };
  for (const Segment& s : segments(space)) {
    if (Segment moved = cut(s, from); moved.count != 0) {
      moved.first = moved.first - from.first + to;
      next.push_back(moved);
    }
    // What is left in place: outside of the old range and of the new one, whose former contents are gone.
    uint64_t low = std::min(from.first, to);
    uint64_t high = std::max(from.first, to);
    uint64_t low_end = std::max(low + from.count, low);
    keep(cut(s, {0, low}));
    if (low_end < high) keep(cut(s, {low_end, high - low_end}));
    keep(cut(s, {std::max(high + from.count, low_end), ~uint64_t{0} - (high + from.count)}));
  }
  std::sort(next.begin(), next.end(), [](const Segment& a, const Segment& b) { return a.first < b.first; });
  return switch_to(space, next, message);
}

}  // namespace mose::restore
