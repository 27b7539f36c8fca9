// SPDX-License-Identifier: MIT
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "restore/pager.h"
#include "restore/pager_client.h"
#include "restore/pager_space.h"

// A standby's pages: put in before the seal, judged at the seal, rewritten where they are stale.
//
// Everything but answer_bare() and settle_standby() runs in the filler's thread. No lock of a space is held while its
// memory is written through /proc: were a page not present after all, the write would wait for a server.
namespace mose::restore {
namespace {

// Between two looks at what has come: each costs a walk over the provider's tables.
constexpr Nanoseconds kStageEvery = std::chrono::milliseconds(5);
constexpr size_t kPiecesPerWrite = 512;  // at most IOV_MAX
constexpr Nanoseconds kEventPause = std::chrono::microseconds(20);

void nap(Nanoseconds duration) {
  timespec time{.tv_sec = 0, .tv_nsec = duration.count()};
  ::nanosleep(&time, nullptr);
}

// Pages from `page` on that are not in the set, at most `max`.
uint64_t absent_from(const PageSet& set, uint64_t page, uint64_t max) {
  const auto& runs = set.runs();
  auto next = std::partition_point(runs.begin(), runs.end(), [&](const PageRun& r) { return r.end() <= page; });
  if (next == runs.end()) return max;
  return next->first <= page ? 0 : std::min(max, next->first - page);
}

// By number, out of a sanitizer's sight: a page that is staged may be received again at the same moment. Such a copy counts
// for nothing, because the page has been unstaged before its first byte came.
ssize_t write_other(pid_t pid, const iovec* from, const iovec* to, size_t count) {
  return ::syscall(SYS_process_vm_writev, pid, from, count, to, count, 0ul);
}
ssize_t write_at(int file, std::span<const std::byte> bytes, off_t at) {
  return ::syscall(SYS_pwrite64, file, bytes.data(), bytes.size(), at);
}

void become_background() {
  sched_param parameter{};
  (void)::sched_setscheduler(0, SCHED_BATCH, &parameter);
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
  if (!to_stage_.empty()) {
    Piece piece = to_stage_.front();
    to_stage_.pop_front();
    stage_piece(piece);
  }
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

void Pager::stage_piece(const Piece& piece) {
  Space& one = *space(piece.space);
  PageRun rest = piece.source;  // nothing has moved: places and source pages are the same
  while (rest.count != 0 && !stop_ && !paused_ && !drop_asked_ && !failed_ && !provider_.sealed()) {
    while (urgent_ > 0 && !stop_) nap(kEventPause);
    std::unique_lock lock(one.lock);
    if (one.uffd < 0) return;
    const bool fresh = !one.touched.contains(rest.first);
    if (!fresh) lock.unlock();
    if (!(fresh ? stage_fresh(one, rest) : stage_again(one, rest))) return;
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
  UffdInstall result = uffd_copy(space.uffd, run.first, bytes);
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

// Pages that are in the standby and have come again. Without the space's lock.
bool Pager::stage_again(Space& space, PageRun& rest) {
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
  Writes writes;
  writes.add(run.first, bytes);
  if (auto written = write_memory(space, writes); !written) {
    provider_.unstage(space.source, run);
    fail_once(written.error());
    return false;
  }
  restaged_pages_ += run.count;
  rest = {run.end(), rest.count - run.count};
  return true;
}

// After the seal. True when there may be more to do at once.
bool Pager::refresh() {
  if (policy_.realtime) become_realtime(::pthread_self());
  const uint64_t arrivals = arrivals_seen_;
  bool all = true;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.forgotten) continue;
    {
      std::lock_guard lock(one.lock);
      if (one.uffd < 0) {
        become_background();
        fail_once(fail("a process of the standby has ended").error());
        return false;
      }
      if (!know_pages(one)) return false;
    }
  }
  if (!std::exchange(remote_settled_, true)) settle_remote();
  take_discarded();
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.forgotten) continue;
    if (!one.stale.empty()) refresh_space(one);
    all &= one.stale.empty() && one.offered.empty();
  }
  if (!shared_done_) (void)finish_shared();
  all &= shared_done_;
  // Waiting for the source is no reason to be before others.
  become_background();
  if (failed_) return false;
  if (!all) return arrivals_seen_ != arrivals;
  if (space_count() != state_.spaces()) return true;
  state_.header().refreshed = 1;
  refreshed_us_ = to_us(now());
  refreshed_ = true;
  if (callbacks_.on_refreshed) callbacks_.on_refreshed();
  for (uint32_t i = 0; i < space_count(); ++i) space(i)->memory = {};
  return true;
}

void Pager::refresh_space(Space& space) {
  struct Part {
    PageRun run;
    PagePlace place;
  };
  std::vector<Part> here;
  std::vector<PageRun> remote;
  for (const PageRun& run : space.stale.runs())
    for (PageRun rest = run; rest.count != 0;) {
      auto extent = provider_.place(space.source, rest.first, rest.count);
      PageRun part{rest.first, std::min(extent.count, rest.count)};
      if (extent.place == PagePlace::remote || extent.place == PagePlace::unknown)
        remote.push_back(part);
      else
        here.push_back({part, extent.place});
      rest = {part.end(), rest.count - part.count};
    }
  Writes writes;
  for (const Part& part : here)
    if (auto collected = collect(space, part.run, part.place, writes); !collected) return fail_once(collected.error());
  if (auto written = rewrite(space, writes); !written) return fail_once(written.error());
  space.stale = PageSet::from_runs(std::move(remote));
}

// Where the final contents of these pages lie; nothing that lies there changes any more.
Status Pager::collect(Space& space, PageRun run, PagePlace place, Writes& writes) {
  if (place == PagePlace::zero) zeroed_pages_ += run.count;
  while (run.count != 0) {
    auto bytes = place == PagePlace::zero ? std::span(kZeroPages).first(std::min(run.count, kZeroPagesMax) * kPageSize)
                                          : provider_.contents(space.source, run.first, run.count);
    if (bytes.size() < kPageSize) return fail("a local page has no contents");
    writes.add(run.first, bytes);
    const uint64_t count = bytes.size() / kPageSize;
    run = {run.first + count, run.count - count};
  }
  return {};
}

Status Pager::rewrite(Space& space, Writes& writes) {
  if (!doubt_) return write_memory(space, writes);
  for (size_t i = 0; i < writes.from.size(); ++i) {
    auto bytes = std::span(static_cast<const std::byte*>(writes.from[i].iov_base), writes.from[i].iov_len);
    uint64_t page = reinterpret_cast<uint64_t>(writes.to[i].iov_base) >> kPageShift;
    for (; !bytes.empty(); bytes = bytes.subspan(kPageSize), ++page)
      MOSE_TRY(rewrite_doubtful(space, page, bytes.first(kPageSize)));
  }
  return {};
}

// One page that a dead pager noted: it is there, or it is not and can be put in.
Status Pager::rewrite_doubtful(Space& space, uint64_t page, std::span<const std::byte> bytes) {
  for (;;) {
    UffdInstall result;
    {
      std::lock_guard lock(space.lock);
      if (space.uffd < 0) return fail("a process of the standby has ended");
      result = uffd_copy(space.uffd, page, bytes);
    }
    switch (result.end) {
      case UffdInstall::End::done:
        if (result.installed == 0) {
          Writes writes;
          writes.add(page, bytes);
          return write_memory(space, writes);
        }
        return {};
      case UffdInstall::End::event_pending:
        nap(kEventPause);
        continue;
      case UffdInstall::End::unregistered:
        // Noted, and never put in for this reason. A page that should be there is one that nobody supplies.
        if (provider_.place(space.source, page, 1).place != PagePlace::zero) ++unregistered_;
        return {};
      case UffdInstall::End::gone:
        return fail("a process of the standby has ended");
      case UffdInstall::End::failed:
        return fail_errno("rewrite a page of the standby", result.code);
    }
  }
}

Status Pager::need_memory(Space& space) {
  if (space.memory.memory.valid()) return {};
  MOSE_ASSIGN(space.memory, callbacks_.open_memory(space.source));
  return {};
}

Status Pager::write_memory(Space& space, Writes& writes) {
  if (writes.from.empty()) return {};
  MOSE_TRY(need_memory(space));
  // The number is the process's own as long as it lives, which is looked at before and afterwards.
  if (!space.memory.process.alive()) return fail("a process of the standby has ended");
  size_t at = 0;
  while (at < writes.from.size()) {
    const size_t count = std::min(writes.from.size() - at, kPiecesPerWrite);
    ssize_t n = write_other(space.memory.process.pid(), &writes.from[at], &writes.to[at], count);
    size_t done = n > 0 ? static_cast<size_t>(n) : 0;
    const size_t end = at + count;
    for (; at < end && done >= writes.from[at].iov_len; ++at) done -= writes.from[at].iov_len;
    // Stopped at a page that the process itself may not write to, or before the first one: the other way is for all.
    if (at < end) {
      MOSE_TRY(write_part(space, writes.from[at], writes.to[at]));
      ++at;
    }
  }
  if (!space.memory.process.alive()) return fail("a process of the standby has ended");
  return {};
}

Status Pager::write_part(Space& space, const iovec& from, const iovec& to) {
  auto bytes = std::span(static_cast<const std::byte*>(from.iov_base), from.iov_len);
  auto at = reinterpret_cast<off_t>(to.iov_base);
  while (!bytes.empty()) {
    ssize_t n = write_at(space.memory.memory.get(), bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("write to the standby's memory");
    if (n == 0) return fail("a process of the standby has ended");
    bytes = bytes.subspan(static_cast<size_t>(n));
    at += n;
  }
  return {};
}

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
  staged_pages_ = restaged_pages_ = stale_pages_ = zeroed_pages_ = stale_remote_ = discarded_pages_ = 0;
  staged_us_ = sealed_us_ = refreshed_us_ = 0;
  remote_settled_ = discards_ = offering_ = false;
  {
    std::lock_guard lock(offer_mutex_);
    offered_.clear();
    kept_.reset();
  }
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
