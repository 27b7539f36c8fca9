// SPDX-License-Identifier: MIT
#include <algorithm>

#include "base/log.h"
#include "restore/fill_order.h"
#include "restore/pager.h"
#include "restore/pager_space.h"

// The background fill: everything that nobody has asked for yet.
namespace mose::restore {
namespace {

// Ranges are registered one after the other while the restorer runs: a few milliseconds for a whole tree.
constexpr Nanoseconds kDeferredPause = std::chrono::microseconds(500);
constexpr Nanoseconds kIdlePause = std::chrono::milliseconds(100);
constexpr Nanoseconds kUrgentPause = std::chrono::microseconds(20);

}  // namespace

// In a standby the switchover waits for its stale pages: before they are in nothing else is, and nothing else is thought about. But
// where it waits for every page, and only the source is waited for, the time is there.
bool Pager::fill_allowed() const {
  if (paused_ || offering_ || !provider_.sealed()) return false;
  if (standby_ && !refreshed_ && (discards_ || !remote_settled_ || hoped_.pending())) return false;
  return policy_.fill_before_resume || running_;
}

void Pager::wake_filler() {
  {
    std::lock_guard lock(fill_mutex_);
    fill_woken_ = true;
  }
  fill_wake_.notify_one();
}

void Pager::filler_main() {
  become_background();  // it uses what the others leave
  while (!stop_) {
    bool work = standby_ && standby_work();
    // Whatever the policy of filling says: the tree does not run before.
    if (!standby_ && !shared_done_ && restore_ended_ && !paused_ && !failed_ && provider_.sealed())
      work |= finish_shared();
    if (fill_allowed()) {
      take_arrivals();  // of spaces that are planned: a plan has what has come before it
      work |= plan_new_spaces();
      if (!pieces_.empty()) {
        Piece piece = pieces_.front();
        pieces_.pop_front();
        (void)fill_piece(piece);
        work = true;
      }
    }
    complete_if_done();
    if (work) continue;
    Nanoseconds pause = kIdlePause;
    if (!shared_done_ && !failed_ && provider_.sealed() && restore_ended_) pause = kDeferredPause;
    if (!deferred_.empty() && fill_allowed()) {
      pieces_.insert(pieces_.end(), deferred_.begin(), deferred_.end());
      deferred_.clear();
      pause = kDeferredPause;
    } else if (!provider_.sealed() || drop_asked_ || hoped_.pending()) {
      pause = std::chrono::milliseconds(1);
    }
    std::unique_lock lock(fill_mutex_);
    fill_wake_.wait_for(lock, pause, [&] { return fill_woken_ || stop_; });
    fill_woken_ = false;
  }
}

// The pieces of spaces that have come since. What is remote is passed over when its turn comes; it arrives.
bool Pager::plan_new_spaces() {
  bool any = false;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.planned) continue;
    PageSet missing;
    {
      std::lock_guard lock(one.lock);
      if (one.uffd >= 0) {
        if (!know_pages(one)) continue;
        missing = state_.missing_sources(i);
      }
    }
    one.planned = true;
    any = true;
    const std::vector<PageSet> hot = provider_.hot(one.source);
    for (const PageRun& run : fill_order(missing, hot, policy_.piece_before)) pieces_.push_back({i, run});
  }
  return any;
}

void Pager::take_arrivals() {
  std::vector<std::pair<SpaceId, PageRun>> list;
  {
    std::lock_guard lock(fill_mutex_);
    list.swap(arrivals_);
  }
  for (const auto& [source, run] : list)
    for (uint32_t i = 0; i < space_count(); ++i)
      if (space(i)->source == source && !space(i)->closed && space(i)->planned) pieces_.push_front({i, run});
}

bool Pager::fill_piece(const Piece& piece) {
  Space& one = *space(piece.space);
  PageRun rest = piece.source;
  while (rest.count != 0 && !stop_) {
    // A fault is being answered: it needs the lock, the processor, or both.
    while (urgent_ > 0 && !stop_) nap(kUrgentPause);
    if (paused_) {
      deferred_.push_back({piece.space, rest});
      return false;
    }
    std::unique_lock lock(one.lock);
    if (one.uffd < 0) return true;
    FillStep step = fill_step(one, rest);
    lock.unlock();
    if (step == FillStep::finished) return true;
    if (step == FillStep::later) nap(kUrgentPause);
  }
  return true;
}

// One piece at most. `rest` moves on past what is dealt with.
Pager::FillStep Pager::fill_step(Space& space, PageRun& rest) {
  auto advance = [&](uint64_t source) {
    source = std::min(source, rest.end());
    rest = {source, rest.end() - source};
    return rest.count == 0 ? FillStep::finished : FillStep::went_on;
  };
  std::vector<PagerState::Missing> found;
  state_.missing_of_source(space.index, rest, 1, found);
  if (found.empty()) return FillStep::finished;
  auto [run, source] = found.front();
  auto extent = provider_.place(space.source, source, run.count);
  uint64_t count = std::min(run.count, extent.count);
  if (extent.place == PagePlace::remote || extent.place == PagePlace::unknown) return advance(source + count);
  if (extent.place == PagePlace::zero) {
    installed(space, {run.first, count});
    return advance(source + count);
  }
  // Looked at before the attempt: one that failed before everything was registered says nothing about afterwards.
  const bool registered = restore_ended_;
  uint64_t limit = running_ ? policy_.piece_after : policy_.piece_before;
  auto bytes = provider_.contents(space.source, source, std::min(count, limit));
  if (bytes.size() < kPageSize) return advance(source + 1);
  UffdInstall result = uffd_copy(space.uffd, run.first, bytes);
  if (result.handled != 0) installed(space, {run.first, result.handled});
  rest = {source + result.handled, rest.end() - source - result.handled};
  if (result.end == UffdInstall::End::done) return rest.count == 0 ? FillStep::finished : FillStep::went_on;
  return fill_ended(space, result, registered, rest);
}

// The first page of `rest` could not be installed.
Pager::FillStep Pager::fill_ended(Space& space, const UffdInstall& result, bool registered, PageRun& rest) {
  switch (result.end) {
    case UffdInstall::End::event_pending:
      return FillStep::later;
    case UffdInstall::End::gone:
      drop(space);
      return FillStep::finished;
    case UffdInstall::End::unregistered:
      if (!registered) {
        deferred_.push_back({space.index, rest});
        return FillStep::finished;
      }
      break;
    case UffdInstall::End::failed:
      fail_once(fail_errno("fill", result.code).error());
      break;
    case UffdInstall::End::done:
      break;
  }
  // No fault can come for this page: it is not ours, or an unmapping is about to be reported.
  ++unregistered_;
  std::vector<PagerState::Missing> found;
  state_.missing_of_source(space.index, {rest.first, 1}, 1, found);
  for (const auto& one : found) installed(space, one.now);
  rest = {rest.first + 1, rest.count - 1};
  return rest.count == 0 ? FillStep::finished : FillStep::went_on;
}

void Pager::complete_if_done() {
  if (complete_ || paused_ || !restore_ended_ || !provider_.sealed()) return;
  if (!shared_done_) return;
  if (standby_ && !refreshed_) return;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (!one.closed && (!one.known || one.missing != 0)) return;
  }
  if (space_count() != state_.spaces()) return;  // a fork is being taken in
  if (!filled_.exchange(true) && callbacks_.on_filled) callbacks_.on_filled();
  if (standby_) return;  // it may still be dropped, and another tree come
  for (uint32_t i = 0; i < space_count(); ++i) {
    std::lock_guard lock(space(i)->lock);
    drop(*space(i));
  }
  complete_us_ = to_us(now());
  complete_ = true;
  if (callbacks_.on_complete) callbacks_.on_complete();
}

}  // namespace mose::restore
