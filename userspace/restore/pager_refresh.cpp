// SPDX-License-Identifier: MIT
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "restore/pager.h"
#include "restore/pager_space.h"

// After the seal: a standby's stale pages get the contents that the map says. Those that are still at the source:
// pager_discard.cpp.
//
// In the filler's thread. No lock of a space is held while its memory is written: were a page not present after all, the write
// would wait for a server.
namespace mose::restore {
namespace {

constexpr size_t kPiecesPerWrite = 512;  // at most IOV_MAX
// While the switchover has other things to wait for: what comes meanwhile is looked up and written together.
constexpr Nanoseconds kGather = std::chrono::milliseconds(1);

// By number, out of a sanitizer's sight: a page that is staged may be received again at the same moment. Such a copy counts
// for nothing, because the page has been unstaged before its first byte came.
ssize_t write_other(pid_t pid, const iovec* from, const iovec* to, size_t count) {
  return ::syscall(SYS_process_vm_writev, pid, from, count, to, count, 0ul);
}
ssize_t write_at(int file, std::span<const std::byte> bytes, off_t at) {
  return ::syscall(SYS_pwrite64, file, bytes.data(), bytes.size(), at);
}

}  // namespace

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
  take_discarded();
  const ComeRuns come = take_come();
  std::vector<StaleParts> here(space_count());
  for (uint32_t i = 0; i < here.size(); ++i)
    if (!space(i)->forgotten) here[i] = split_stale(*space(i), come);
  // Before anything is written: the source works meanwhile.
  if (!std::exchange(remote_settled_, true)) settle_remote();
  judge_remote();
  for (uint32_t i = 0; i < here.size(); ++i) {
    Space& one = *space(i);
    if (one.forgotten) continue;
    rewrite_parts(one, here[i]);
    all &= one.stale.empty() && one.offered.empty();
  }
  if (!shared_done_) (void)finish_shared();
  all &= shared_done_;
  // Waiting for the source is no reason to be before others.
  become_background();
  if (failed_) return false;
  if (hoped_.pending() && !awaited_ && pieces_.empty()) nap(kGather);
  if (!all) return arrivals_seen_ != arrivals;
  if (space_count() != state_.spaces()) return true;
  state_.header().refreshed = 1;
  refreshed_us_ = to_us(now());
  refreshed_ = true;
  if (callbacks_.on_refreshed) callbacks_.on_refreshed();
  for (uint32_t i = 0; i < space_count(); ++i) space(i)->memory = {};
  return true;
}

Pager::ComeRuns Pager::take_come() {
  std::lock_guard lock(fill_mutex_);
  return std::exchange(come_, {});
}

// The remote ones stay in space.stale. Every one is looked up once; after that only what has come: there may be thousands, and
// whoever sends and receives them, and dumps, needs the processor.
Pager::StaleParts Pager::split_stale(Space& space, const ComeRuns& come) const {
  PageSet look;
  if (!std::exchange(space.stale_looked_up, true)) {
    look = space.stale;
  } else if (auto runs = come.find(space.source); runs != come.end()) {
    look = PageSet::from_runs(runs->second).intersect(space.stale);
  }
  StaleParts here;
  std::vector<PageRun> found;
  for (const PageRun& run : look.runs())
    for (PageRun rest = run; rest.count != 0;) {
      auto extent = provider_.place(space.source, rest.first, rest.count);
      PageRun part{rest.first, std::min(extent.count, rest.count)};
      if (extent.place == PagePlace::zero || extent.place == PagePlace::local) {
        here.emplace_back(part, extent.place);
        found.push_back(part);
      }
      rest = {part.end(), rest.count - part.count};
    }
  if (!found.empty()) space.stale = space.stale.minus(PageSet::from_runs(std::move(found)));
  return here;
}

void Pager::rewrite_parts(Space& space, const StaleParts& parts) {
  Writes writes;
  for (const auto& [run, place] : parts)
    if (auto collected = collect(space, run, place, writes); !collected) return fail_once(collected.error());
  if (auto written = rewrite(space, writes); !written) fail_once(written.error());
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

}  // namespace mose::restore
