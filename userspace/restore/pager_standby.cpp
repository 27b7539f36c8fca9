// SPDX-License-Identifier: MIT
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "restore/pager.h"
#include "restore/pager_client.h"
#include "restore/pager_space.h"

// A standby's pages: put in before the seal, and judged at the seal. What is stale then: pager_refresh.cpp.
//
// Everything but answer_bare() and settle_standby() runs in the filler's thread. No lock of a space is held while its
// memory is written through /proc: were a page not present after all, the write would wait for a server.
namespace mose::restore {
namespace {

// Between two looks at what has come: each costs a walk over the provider's tables.
constexpr Nanoseconds kStageEvery = std::chrono::milliseconds(5);
// Of so many put in with one call the cost of a page is seen.
constexpr uint64_t kMeasuredPages = 16;

// Pages from `page` on that are not in the set, at most `max`.
uint64_t absent_from(const PageSet& set, uint64_t page, uint64_t max) {
  const auto& runs = set.runs();
  auto next = std::partition_point(runs.begin(), runs.end(), [&](const PageRun& r) { return r.end() <= page; });
  if (next == runs.end()) return max;
  return next->first <= page ? 0 : std::min(max, next->first - page);
}

}  // namespace

Status Pager::standby(bool discards) {
  if (!callbacks_.open_memory) return fail("a standby's memory cannot be opened here");
  if (provider_.sealed()) return fail("the final page map is here already");
  if (state_.spaces() != 0 && !std::ranges::all_of(spaces_, [](const auto& s) { return !s || s->forgotten; }))
    return fail("a tree is being restored already");
  provider_.begin_staging();
  state_.header().refreshed = 0;
  state_.header().standby = 1;
  discards_ = discards;
  if (discards) (void)table_cost();  // some milliseconds, which nobody waits for now
  standby_ = true;
  return {};
}

void Pager::drop_standby() {
  if (!standby_) return;
  drop_asked_ = true;
  wake_filler();
}

// A fault of the restorer, or of somebody who looks at the tree, before the seal. Under the space's lock.
Pager::Answer Pager::answer_bare(Space& space, const Waiting& fault) {
  const PageRun run{fault.page, 1};
  auto bytes = provider_.stage(space.source, fault.page, 1);
  if (bytes.empty() && provider_.unstaged(space.source).contains(fault.page)) return Answer::not_yet;  // on its way
  if (bytes.empty() && provider_.sealed()) return Answer::not_yet;  // just now: the map decides
  if (auto noted = state_.touch(space.index, run); !noted) {
    fail_once(noted.error());
    return Answer::not_yet;
  }
  space.touched.add(run);
  // The restorer, and the kernel for it, go on writing there.
  if (!bytes.empty()) provider_.unstage(space.source, run);
  if (bytes.empty()) return answer_zero(space, fault);
  UffdInstall result = uffd_copy(space.uffd, fault.page, bytes);
  if (result.end == UffdInstall::End::gone) {
    drop(space);
    return Answer::done;
  }
  if (result.handled == 0 && result.end == UffdInstall::End::event_pending) return Answer::again;
  if (result.end == UffdInstall::End::failed) fail_once(fail_errno("answer a fault", result.code).error());
  if (result.installed == 0) (void)uffd_wake(space.uffd, run);
  return Answer::done;
}

// The pages are known now: what was touched needs no answer any more, and is right or stale. Under the space's lock.
void Pager::settle_standby(Space& space) {
  space.stale = space.touched;
  if (!doubt_) space.stale = space.touched.minus(provider_.staged(space.source));
  stale_pages_ += space.stale.pages();
  for (const PageRun& run : space.touched.runs()) installed(space, run);
}

// True when there may be more to do at once.
bool Pager::standby_work() {
  if (drop_asked_) return forget_standby();
  if (paused_ || !restore_ended_ || refreshed_ || failed_) return false;
  if (provider_.sealed()) return refresh();
  if (to_stage_.empty() && !plan_staging()) return false;
  if (!to_stage_.empty()) stage_next();
  if (to_stage_.empty() && !failed_ && !staged_.exchange(true)) {
    staged_us_ = to_us(now());
    if (callbacks_.on_staged) callbacks_.on_staged();
  }
  return true;
}

// What has come since the last time. False: nothing yet, and not the time to look.
bool Pager::plan_staging() {
  const uint64_t news = provider_.staging_news();
  if (news == news_staged_ || now() < stage_again_at_) return false;
  stage_again_at_ = now() + kStageEvery;
  news_staged_ = news;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.closed) continue;
    // Early, because it must cost nothing at the switchover.
    if (auto opened = need_memory(one); !opened) {
      fail_once(opened.error());
      return false;
    }
    PageSet pages = provider_.unstaged(one.source).minus(one.unstageable);
    for (const PageRun& run : pages.runs()) to_stage_.push_back({i, run});
  }
  if (auto staged = stage_shared(); !staged) {
    fail_once(staged.error());
    return false;
  }
  return true;
}

// One piece; of those that are in already as many as go together.
void Pager::stage_next() {
  Space& one = *space(to_stage_.front().space);
  Writes again;
  do {
    const Piece piece = to_stage_.front();
    to_stage_.pop_front();
    stage_piece(piece, again);
  } while (!again.from.empty() && !stage_full(again) && !stage_no_more() && !to_stage_.empty() && space(to_stage_.front().space) == &one);
  // Whatever has happened meanwhile: they count as staged.
  write_again(one, again);
}

void Pager::stage_piece(const Piece& piece, Writes& again) {
  Space& one = *space(piece.space);
  PageRun rest = piece.source;  // nothing has moved: places and source pages are the same
  while (rest.count != 0 && !stage_no_more()) {
    // As much as the seal may have to wait for, each page by itself three system calls.
    if (stage_full(again)) write_again(one, again);
    while (urgent_ > 0 && !stop_) nap(kEventPause);
    std::unique_lock lock(one.lock);
    if (one.uffd < 0) return;
    const bool fresh = !one.touched.contains(rest.first);
    if (!fresh) lock.unlock();
    if (!(fresh ? stage_fresh(one, rest) : stage_again(one, rest, again))) return;
  }
}

// Pages that are not in the standby, at most one piece of them. Under the space's lock. False: no more of this run.
bool Pager::stage_fresh(Space& space, PageRun& rest) {
  auto advance = [&](uint64_t pages) { rest = {rest.first + pages, rest.count - pages}; };
  const uint64_t most = absent_from(space.touched, rest.first, std::min(rest.count, policy_.piece_staged));
  auto bytes = provider_.stage(space.source, rest.first, most);
  if (bytes.empty()) {
    advance(1);  // being received: it comes again with the next plan
    return true;
  }
  const PageRun run{rest.first, bytes.size() / kPageSize};
  if (auto noted = state_.touch(space.index, run); !noted) {
    provider_.unstage(space.source, run);
    fail_once(noted.error());
    return false;
  }
  const Timestamp start = now();
  UffdInstall result = uffd_copy(space.uffd, run.first, bytes);
  if (result.installed >= kMeasuredPages) {
    const Nanoseconds page = (now() - start) / static_cast<int64_t>(result.installed);
    install_page_ = std::min(install_page_.value_or(page), page);
  }
  if (result.handled != 0) space.touched.add({run.first, result.handled});
  staged_pages_ += result.installed;
  if (result.installed != result.handled) {
    // Pages that are neither ours nor the restore's faults: nobody here can say what they hold.
    provider_.unstage(space.source, run);
    fail_once(fail("pages of the standby are there already").error());
    return false;
  }
  if (result.handled != run.count)
    provider_.unstage(space.source, {run.first + result.handled, run.count - result.handled});
  advance(result.handled);
  switch (result.end) {
    case UffdInstall::End::done:
      return true;
    case UffdInstall::End::event_pending:
      space.lock.unlock();
      nap(kEventPause);
      space.lock.lock();
      return true;
    case UffdInstall::End::unregistered:
      // Mapped at the source since the standby's images were made, or not for us: left to the normal way.
      space.unstageable.add({rest.first, 1});
      advance(1);
      return true;
    case UffdInstall::End::gone:
      drop(space);
      fail_once(fail("a process of the standby has ended").error());
      return false;
    case UffdInstall::End::failed:
      fail_once(fail_errno("put a page into the standby", result.code).error());
      return false;
  }
  return false;
}

// Pages that are in the standby and have come again; they must be written behind this. Without the space's lock.
bool Pager::stage_again(Space& space, PageRun& rest, Writes& again) {
  uint64_t most = 0;
  {
    std::lock_guard lock(space.lock);
    most = space.touched.run_from(rest.first).count;
  }
  // Removed since: fresh at the next plan.
  if (most == 0) return false;
  auto bytes = provider_.stage(space.source, rest.first, std::min({most, rest.count, policy_.piece_staged}));
  if (bytes.empty()) {
    rest = {rest.first + 1, rest.count - 1};
    return true;
  }
  const PageRun run{rest.first, bytes.size() / kPageSize};
  again.add(run.first, bytes);
  restaged_pages_ += run.count;
  rest = {run.end(), rest.count - run.count};
  return true;
}

void Pager::write_again(Space& space, Writes& again) {
  auto written = write_memory(space, again);
  const Writes done = std::exchange(again, {});
  if (written) return;
  for (const iovec& to : done.to)
    provider_.unstage(space.source, {reinterpret_cast<uint64_t>(to.iov_base) >> kPageShift, to.iov_len / kPageSize});
  fail_once(written.error());
}

bool Pager::stage_no_more() const { return stop_ || paused_ || drop_asked_ || failed_ || provider_.sealed(); }
bool Pager::stage_full(const Writes& again) const { return again.bytes_all >= policy_.piece_staged * kPageSize; }

Status Pager::need_shared() {
  if (shared_ || !callbacks_.open_shared) return {};
  MOSE_ASSIGN(SharedMemory opened, callbacks_.open_shared());
  shared_.emplace(std::move(opened));
  return {};
}

Status Pager::stage_shared() {
  MOSE_TRY(need_shared());
  if (!shared_) return {};
  return shared_->stage(provider_, [this] { return !stop_ && !paused_ && !drop_asked_ && !provider_.sealed(); });
}

bool Pager::finish_shared() {
  if (auto opened = need_shared(); !opened) {
    fail_once(opened.error());
    return false;
  }
  auto finished = shared_ ? shared_->finish(provider_) : Result<bool>(true);
  if (!finished) {
    fail_once(finished.error());
    return false;
  }
  if (!*finished) return false;
  shared_.reset();  // who has it open would be taken for one who shares it
  shared_done_.store(true, std::memory_order_release);
  return true;
}

// True when it is done: while an address space lives its userfaultfd stays open, for it would read zero pages.
bool Pager::forget_standby() {
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    std::lock_guard lock(one.lock);
    if (one.uffd >= 0 && uffd_owner_alive(one.uffd)) return false;
  }
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    std::lock_guard lock(one.lock);
    drop(one);
    one.forgotten = true;
    one.planned = true;
    one.memory = {};
    one.touched = one.stale = one.offered = one.unstageable = {};
    one.pages = 0;
  }
  state_.forget_standby();
  pieces_.clear();
  deferred_.clear();
  to_stage_.clear();
  shared_.reset();
  shared_done_ = !callbacks_.open_shared;
  news_staged_ = ~uint64_t{0};
  stage_again_at_ = {};
  latency_.reset();
  unregistered_ = 0;
  awaited_ = false;
  staged_pages_ = restaged_pages_ = stale_pages_ = zeroed_pages_ = stale_remote_ = discarded_pages_ = 0;
  staged_us_ = sealed_us_ = refreshed_us_ = 0;
  remote_settled_ = discards_ = offering_ = false;
  hoped_.forget();
  {
    std::lock_guard lock(offer_mutex_);
    offered_.clear();
    kept_.reset();
  }
  (void)take_come();
  restore_ended_ = running_ = paused_ = failed_ = false;
  staged_ = refreshed_ = doubt_ = filled_ = false;
  standby_ = false;
  drop_asked_ = false;
  become_background();
  log::info("the standby has been dropped");
  if (callbacks_.on_dropped) callbacks_.on_dropped();
  return true;
}

}  // namespace mose::restore
