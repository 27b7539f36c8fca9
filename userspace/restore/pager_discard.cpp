// SPDX-License-Identifier: MIT
#include <sys/mman.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "restore/pager.h"
#include "restore/pager_client.h"
#include "restore/pager_space.h"

// A standby's pages that were written since and are still at the source. A few are asked for and waited for. Of many as many as can
// come while the switchover has other things to wait for; the others are taken out again where somebody can do that
// (restore/standby_discard.h), and come when they are touched, like any other page.
//
// In the filler's thread, but for discarded() and offered(). While pages are offered nobody here writes to them, and no page is
// put in: for a moment in between the userfaultfds do not cover their memory. Other stale pages are present, and rewritten.
namespace mose::restore {
namespace {

// To take one out, and to put it in again behind the workload's back: as many times what it takes to put one in, or as here where that
// was not seen (1 to 12 us).
constexpr int64_t kDiscardCosts = 2;
constexpr Nanoseconds kInstallPage = std::chrono::microseconds(2);
// And whoever takes them out has to run for that: such a hypervisor puts up page tables of its own again for a process that has not run
// for some tenths of a second, 23 ms for 4 GiB. As many of its tables as cost as much as one that is changed.
constexpr uint64_t kTablesPutUp = 3;

constexpr uint64_t kTablesTried = 16;
constexpr int kTableTries = 4;

// A page that comes into each of some page tables that are there, and goes again.
std::optional<Nanoseconds> try_tables() {
  constexpr size_t kTableBytes = kTablePages * kPageSize, kBytes = (kTablesTried + 1) * kTableBytes;
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return std::nullopt;
  const uint64_t first = (reinterpret_cast<uintptr_t>(memory) + kTableBytes - 1) / kTableBytes * kTableBytes;
  auto* bytes = reinterpret_cast<volatile char*>(first);
  auto touch = [&](size_t page) {
    for (uint64_t table = 0; table < kTablesTried; ++table) bytes[(table * kTablePages + page) * kPageSize] = 1;
  };
  (void)::madvise(memory, kBytes, MADV_NOHUGEPAGE);
  touch(0);
  const Timestamp start = now();
  touch(1);
  const bool gone = ::madvise(memory, kBytes, MADV_DONTNEED) == 0;
  const Nanoseconds took = now() - start;
  ::munmap(memory, kBytes);
  return gone ? std::optional(took / static_cast<int64_t>(kTablesTried)) : std::nullopt;
}

// Of pages in as many page tables.
uint64_t tables_of(const PageSet& pages) {
  uint64_t tables = 0, next = 0;
  for (const PageRun& run : pages.runs()) {
    const uint64_t first = std::max(run.first / kTablePages, next);
    next = (run.end() - 1) / kTablePages + 1;
    tables += next - first;
  }
  return tables;
}

}  // namespace

// A hypervisor that keeps page tables of its own is told of each table that is changed: some 20 us to take pages out of one, 40 to put
// one in again, where it takes less than one elsewhere. The least of some tries, once.
Nanoseconds Pager::table_cost() {
  static const Nanoseconds cost = [] {
    std::optional<Nanoseconds> least;
    for (int i = 0; i < kTableTries; ++i)
      if (auto took = try_tables()) least = std::min(least.value_or(*took), *took);
    return least.value_or(Nanoseconds(0));
  }();
  return cost;
}

// Once, when the pages of every space are known: what is stale then is remote, the rest is being written.
void Pager::settle_remote() {
  const uint64_t pages = stale_left();
  if (discards_ && pages >= kDiscardPagesMin && pages <= kDiscardPagesMax) {
    hoped_.expect(pages, now());
    return;
  }
  wait_for_all(pages);
}

// By what has come so far. Before the switchover waits for them those that would have it wait for long, then those that cost less to
// take out than to wait for.
bool Pager::come_too_late(uint64_t left, Timestamp at) const {
  const Nanoseconds waited = hoped_.waited(at), rest = hoped_.rest(at);
  if (waited < (!awaited_ ? policy_.fresh_look : hoped_.come() == 0 ? policy_.awaited_none : policy_.awaited_look)) return false;
  if (!awaited_) return rest > kFreshTime - std::min(waited, kFreshTime);
  uint64_t tables = 0;
  for (uint32_t i = 0; i < space_count(); ++i)
    if (const Space& one = *space(i); !one.stale.empty()) tables += tables_of(one.stale) + one.pages / kTablePages / kTablesPutUp;
  return rest > kDiscardCosts * install_page_.value_or(kInstallPage) * static_cast<int64_t>(left) + table_cost() * static_cast<int64_t>(tables);
}

void Pager::judge_remote() {
  if (!hoped_.pending()) return;
  const uint64_t left = stale_left();
  const Timestamp at = now();
  hoped_.seen(left, at);
  const bool ask = awaited_ && left < kDiscardPagesMin;
  if (left != 0 && !ask && !come_too_late(left, at)) return;
  hoped_.forget();
  if (left >= kDiscardPagesMin) return offer();
  wait_for_all(left);
}

uint64_t Pager::stale_left() const {
  uint64_t pages = 0;
  for (uint32_t i = 0; i < space_count(); ++i) pages += space(i)->stale.pages();
  return pages;
}

// `pages`: that are stale.
void Pager::wait_for_all(uint64_t pages) {
  stale_remote_ += pages;
  for (uint32_t i = 0; i < space_count(); ++i) wait_for(*space(i), space(i)->stale);
}

void Pager::pages_awaited() {
  awaited_ = true;
  wake_filler();
}

// More than that come sooner with the rest; and if the standby is dropped for them, what was asked for would stand before the
// faults of the next tree.
void Pager::wait_for(Space& space, const PageSet& remote) {
  if (!remote.empty() && stale_remote_ <= kStandbyRemoteMax) provider_.request_all(space.source, remote.runs());
}

void Pager::offer() {
  std::vector<StalePages> list;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.stale.empty()) continue;
    list.push_back({one.source, one.stale.runs(), state_.uffd(i)});
    one.offered = std::exchange(one.stale, {});
  }
  {
    std::lock_guard lock(offer_mutex_);
    offered_ = std::move(list);
    kept_.reset();
  }
  offering_ = true;
  if (callbacks_.on_stale) callbacks_.on_stale();
}

std::vector<StalePages> Pager::offered() const {
  std::lock_guard lock(offer_mutex_);
  return offered_;
}

void Pager::discarded(std::vector<StalePages> kept) {
  {
    std::lock_guard lock(offer_mutex_);
    if (offered_.empty()) return;
    kept_ = std::move(kept);
  }
  wake_filler();
}

void Pager::take_discarded() {
  std::vector<StalePages> kept;
  {
    std::lock_guard lock(offer_mutex_);
    if (!kept_) return;
    kept = std::move(*kept_);
    kept_.reset();
    offered_.clear();
  }
  offering_ = false;
  stale_remote_ += count_pages(kept);
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.offered.empty()) continue;
    PageSet stay;
    for (const StalePages& pages : kept)
      if (pages.space == one.source) stay = stay.unite(PageSet::from_runs(pages.runs).intersect(one.offered));
    const PageSet gone = one.offered.minus(stay);
    one.offered = {};
    one.stale = one.stale.unite(stay);
    one.stale_looked_up = false;  // some have come meanwhile
    wait_for(one, stay);
    std::lock_guard lock(one.lock);
    for (const PageRun& run : gone.runs()) {
      one.missing += state_.unmark(i, run);
      // Some have come meanwhile; the others are passed over.
      if (one.planned) pieces_.push_back({i, run});
    }
    discarded_pages_ += gone.pages();
  }
}

}  // namespace mose::restore
