// SPDX-License-Identifier: MIT
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "restore/guardian.h"
#include "restore/pager.h"
#include "restore/pager_space.h"

// Reading messages and answering faults.
namespace mose::restore {
namespace {

constexpr int kReadyMax = 64;       // spaces per wakeup
constexpr int kMessagesMax = 32;    // per space and wakeup, so that one cannot starve the others
// After a message has been read the process must run to take note of it; until then the kernel answers EAGAIN.
constexpr Nanoseconds kAgainPause = std::chrono::microseconds(30);
constexpr Nanoseconds kSealPause = std::chrono::milliseconds(1);

}  // namespace

void become_realtime(pthread_t thread) {
  sched_param parameter{.sched_priority = 1};
  // Threads only: a fork of this process must not inherit it. Where it is not allowed it stays an ordinary thread.
  (void)::pthread_setschedparam(thread, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameter);
}

void Pager::wake_servers() {
  for (auto& server : servers_) {
    server->retry = true;
    uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(server->wake.get(), &one, sizeof one);
  }
}

void Pager::server_main(Server& server) {
  if (policy_.realtime) become_realtime(::pthread_self());
  std::array<epoll_event, kReadyMax> ready;
  bool stalled = false;
  while (!stop_) {
    timespec pause{};
    pause.tv_nsec = (provider_.sealed() ? kAgainPause : kSealPause).count();
    int n = ::epoll_pwait2(server.epoll.get(), ready.data(), kReadyMax, stalled ? &pause : nullptr, nullptr);
    if (n < 0 && errno != EINTR) return fail_once(fail_errno("epoll").error());
    ++urgent_;
    for (int i = 0; i < n; ++i) {
      if (ready[static_cast<size_t>(i)].data.u64 == kWakeTag) {
        uint64_t count;
        [[maybe_unused]] ssize_t got = ::read(server.wake.get(), &count, sizeof count);
        continue;
      }
      read_messages(server, *space(static_cast<uint32_t>(ready[static_cast<size_t>(i)].data.u64)));
    }
    stalled = look_again(server, server.retry.exchange(false));
    --urgent_;
  }
}

// Faults that could not be answered when they were read. True when some must be looked at again after a pause.
bool Pager::look_again(Server& server, bool all) {
  bool stalled = false;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.server != &server || one.closed || !(all || one.stalled)) continue;
    std::vector<Request> requests;
    {
      std::lock_guard lock(one.lock);
      retry_waiting(one, requests);
      stalled |= one.stalled && !paused_;
    }
    ask(requests);
  }
  return stalled;
}

void Pager::read_messages(Server& server, Space& space) {
  std::vector<Request> requests;
  {
    std::lock_guard lock(space.lock);
    bool changed = false;
    // What must be asked for is asked for at once: epoll tells of the next message again.
    for (int i = 0; i < kMessagesMax && space.uffd >= 0 && requests.empty(); ++i) {
      UffdMessage& slot = state_.begin_read(space.index);
      auto got = uffd_read(space.uffd, slot);
      if (!got) {
        fail_once(got.error());
        break;
      }
      if (!*got) break;
      UffdEvent event = decode(slot);
      if (event.kind == UffdEvent::Kind::fault) {
        take_fault(space, event, requests);
      } else {
        apply_event(space, event);
        changed = true;
      }
      state_.end_read(space.index);
    }
    if (changed) server.retry = true;
  }
  ask(requests);
}

void Pager::take_fault(Space& space, const UffdEvent& event, std::vector<Request>& requests) {
  Waiting fault{.page = event.page, .write = event.write, .since = now()};
  auto& header = state_.header();
  ++header.faults;
  int64_t none = 0;
  header.first_fault_us.compare_exchange_strong(none, to_us(fault.since));
  fault.state = answer(space, fault, requests);
  keep_waiting(space, fault);
}

void Pager::keep_waiting(Space& space, const Waiting& fault) {
  if (fault.state == Answer::done) {
    const Nanoseconds waited = now() - fault.since;
    latency_.add(waited);
    if (fault.remote) note_remote(waited);
    return;
  }
  space.waiting.push_back(fault);
  if (fault.state != Answer::remote) space.stalled = true;
}

// A moving average: of one value as good as none, and of a few of them already right.
void Pager::note_remote(Nanoseconds waited) {
  // One that waited for a lost link says nothing of the distance.
  const Nanoseconds counted = std::min(waited, 4 * policy_.remote_far);
  const int64_t us = std::chrono::duration_cast<std::chrono::microseconds>(counted).count(), before = remote_us_;
  remote_us_ = before == INT64_MAX ? us : before + (us - before) / 4;
}

void Pager::retry_waiting(Space& space, std::vector<Request>& requests) {
  if (space.waiting.empty()) return;
  // answer() may find the process gone and clear the list.
  std::vector<Waiting> list = std::exchange(space.waiting, {});
  space.stalled = false;
  for (Waiting& fault : list) {
    if (space.uffd < 0) return;
    fault.state = answer(space, fault, requests);
    keep_waiting(space, fault);
  }
}

// The pages that the final map names, once it is there.
bool Pager::know_pages(Space& space) {
  if (space.known) return true;
  if (!provider_.sealed()) return false;
  const PageSet& present = provider_.present(space.source);
  if (auto set = state_.set_pages(space.index, present); !set) {
    fail_once(set.error());
    return false;
  }
  space.pages = present.pages();
  space.missing = present.pages();
  space.known = true;
  if (standby_ && !refreshed_) settle_standby(space);
  for (const PageRun& run : space.early) installed(space, run);
  return true;
}

Pager::Answer Pager::answer(Space& space, Waiting& fault, std::vector<Request>& requests) {
  if (paused_) return Answer::not_yet;
  if (!know_pages(space)) return standby_ ? answer_bare(space, fault) : Answer::not_yet;
  auto missing = state_.missing_at(space.index, fault.page, policy_.fault_around);
  if (!missing) return answer_zero(space, fault);
  auto extent = provider_.place(space.source, missing->source, missing->now.count);
  switch (extent.place) {
    case PagePlace::unknown:
      return Answer::not_yet;
    case PagePlace::zero:
      installed(space, {missing->now.first, std::min(extent.count, missing->now.count)});
      return answer_zero(space, fault);
    case PagePlace::local:
      missing->now.count = std::min(extent.count, missing->now.count);
      return answer_local(space, fault, *missing);
    case PagePlace::remote:
      break;
  }
  if (!fault.remote) {
    fault.remote = true;
    fault.source = missing->source;
    ++state_.header().remote_faults;
    // The page itself first, so that its answer does not wait for its neighbours.
    requests.push_back({space.source, {missing->source, 1}});
    const bool is_far = remote_us_ > std::chrono::duration_cast<std::chrono::microseconds>(policy_.remote_far).count();
    const uint64_t behind = std::min(extent.count, missing->now.count) - 1;
    const uint64_t more = std::min(space.ahead.behind(missing->source, is_far), behind);
    if (more != 0) requests.push_back({space.source, {missing->source + 1, more}});
  }
  return Answer::remote;
}

Pager::Answer Pager::answer_zero(Space& space, const Waiting& fault) {
  UffdInstall result;
  if (fault.write) {
    // A page of its own at once: a zero page would fault a second time, on the write.
    uint64_t count = 1;
    // What is a zero page and what is not, is not known of the neighbours before the seal.
    uint64_t most = space.known ? std::min(policy_.zero_around, kZeroPagesMax) : 1;
    while (count < most && !state_.missing_at(space.index, fault.page + count, 1)) ++count;
    result = uffd_copy(space.uffd, fault.page, std::span(kZeroPages).first(count * kPageSize));
  } else {
    result = uffd_zero(space.uffd, {fault.page, 1});
  }
  if (result.handled == 0 && result.end == UffdInstall::End::event_pending) return Answer::again;
  if (result.end == UffdInstall::End::gone) {
    drop(space);
    return Answer::done;
  }
  if (result.handled == 0 && result.end == UffdInstall::End::failed)
    fail_once(fail_errno("answer a fault with a zero page", result.code).error());
  // Present already, or unmapped meanwhile: the thread looks again.
  if (result.installed == 0) (void)uffd_wake(space.uffd, {fault.page, 1});
  ++state_.header().zero_faults;
  return Answer::done;
}

Pager::Answer Pager::answer_local(Space& space, const Waiting& fault, const PagerState::Missing& missing) {
  auto bytes = provider_.contents(space.source, missing.source, missing.now.count);
  if (bytes.size() < kPageSize) return Answer::not_yet;
  UffdInstall result = uffd_copy(space.uffd, fault.page, bytes);
  if (result.handled != 0) installed(space, {fault.page, result.handled});
  switch (result.end) {
    case UffdInstall::End::gone:
      drop(space);
      return Answer::done;
    case UffdInstall::End::event_pending:
      if (result.handled == 0) return Answer::again;
      break;
    case UffdInstall::End::failed:
      fail_once(fail_errno("answer a fault", result.code).error());
      break;
    case UffdInstall::End::unregistered:  // of the page itself: unmapped while it waited
    case UffdInstall::End::done:
      break;
  }
  if (result.installed == 0) (void)uffd_wake(space.uffd, {fault.page, 1});
  return Answer::done;
}

// Pages are in, or not wanted any more: under the space's lock.
void Pager::installed(Space& space, PageRun run) {
  uint64_t changed = space.known ? state_.mark(space.index, run) : 0;
  if (changed == 0) return;
  if (space.missing.fetch_sub(changed) == changed) wake_filler();
}

void Pager::apply_event(Space& space, const UffdEvent& event) {
  auto& header = state_.header();
  switch (event.kind) {
    case UffdEvent::Kind::remove:
    case UffdEvent::Kind::unmap:
      ++header.remove_events;
      if (!know_pages(space)) {
        // The final map speaks of the source. What CRIU drops on the way is not in the standby, no more.
        if (standby_) space.touched.remove({event.page, event.count});
        else
          space.early.push_back({event.page, event.count});
      }
      installed(space, {event.page, event.count});
      return;
    case UffdEvent::Kind::remap: {
      // The restored tree cannot run before it is fenced, and it is not fenced without a page map.
      if (!know_pages(space)) return fail_once(fail("mremap before the page map").error());
      ++header.remap_events;
      auto done = state_.remap(space.index, state_.message_number(space.index), {event.page, event.count}, event.to);
      if (!done) fail_once(done.error());
      // Pages that lay at the new place are lost with it.
      uint64_t missing = state_.missing_count(space.index);
      space.missing = missing;
      if (missing == 0) wake_filler();
      return;
    }
    case UffdEvent::Kind::fork: {
      ++header.fork_events;
      if (!know_pages(space)) fail_once(fail("fork before the page map").error());
      auto kept = into_custody(Fd(event.fd));
      if (!kept) return fail_once(kept.error());
      auto child = state_.add_fork(space.index, state_.message_number(space.index), kept->get());
      if (!child) {
        (void)kept->release();  // open for ever rather than zero pages in the child
        return fail_once(child.error());
      }
      // A child that is known already came with a message that is carried out for the second time.
      if (state_.uffd(*child) == kept->get()) (void)kept->release();
      if (auto served = serve_space(*child); !served) fail_once(served.error());
      wake_filler();
      return;
    }
    case UffdEvent::Kind::fault:
    case UffdEvent::Kind::none:
      return;
  }
}

void Pager::ask(const std::vector<Request>& requests) {
  for (const Request& request : requests) provider_.request(request.source, request.run);
}

// The provider's thread: who waits for these pages gets them now; the rest, where there is one, is the filler's work.
void Pager::arrived(SpaceId source, PageRun run) {
  std::vector<Request> requests;
  std::vector<PagerState::Missing> left;
  bool to_fill = standby_ || !shared_done_;
  for (uint32_t i = 0; i < space_count(); ++i) {
    Space& one = *space(i);
    if (one.source != source || one.closed) continue;
    std::lock_guard lock(one.lock);
    std::vector<Waiting> list = std::exchange(one.waiting, {});
    for (Waiting& fault : list) {
      if (one.uffd < 0) break;
      bool mine = fault.state == Answer::remote && fault.source >= run.first && fault.source < run.end();
      if (!mine) {
        one.waiting.push_back(fault);
        continue;
      }
      fault.state = answer(one, fault, requests);
      keep_waiting(one, fault);
      if (fault.state == Answer::again) wake_servers();
    }
    if (one.known && !to_fill) state_.missing_of_source(i, run, 1, left);
    to_fill |= !one.known || !left.empty();
  }
  ++arrivals_seen_;
  ask(requests);
  if (!to_fill) return;
  {
    std::lock_guard lock(fill_mutex_);
    arrivals_.emplace_back(source, run);
    if (standby_ && !refreshed_) come_[source].push_back(run);
  }
  wake_filler();
}

}  // namespace mose::restore
