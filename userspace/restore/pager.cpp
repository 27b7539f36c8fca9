// SPDX-License-Identifier: MIT
#include "restore/pager.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "restore/guardian.h"
#include "restore/pager_space.h"

namespace mose::restore {

Pager::Pager(PagerState& state, PageProvider& provider, PagerPolicy policy, Callbacks callbacks)
    : state_(state), provider_(provider), policy_(policy), callbacks_(std::move(callbacks)) {}

Pager::~Pager() { stop(); }

Result<std::unique_ptr<Pager>> Pager::start(PagerState& state, PageProvider& provider, PagerPolicy policy,
                                            Callbacks callbacks) {
  std::unique_ptr<Pager> pager(new Pager(state, provider, policy, std::move(callbacks)));
  pager->restore_ended_ = state.header().restore_ended == 1;
  pager->running_ = state.header().thawed == 1;
  pager->standby_ = state.header().standby == 1 && !pager->running_;
  pager->refreshed_ = pager->standby_ && state.header().refreshed == 1;
  // A tree is not called fenced before.
  pager->shared_done_ = !pager->callbacks_.open_shared || pager->running_ || pager->refreshed_ ||
                        (state.header().fenced == 1 && !pager->standby_);
  pager->doubt_ = pager->standby_ && !pager->refreshed_;
  for (unsigned i = 0; i < std::max(policy.servers, 1u); ++i) {
    auto server = std::make_unique<Server>();
    server->epoll = Fd(::epoll_create1(EPOLL_CLOEXEC));
    if (!server->epoll) return fail_errno("epoll");
    server->wake = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!server->wake) return fail_errno("eventfd");
    epoll_event event{.events = EPOLLIN, .data = {.u64 = kWakeTag}};
    if (::epoll_ctl(server->epoll.get(), EPOLL_CTL_ADD, server->wake.get(), &event) != 0) return fail_errno("epoll");
    pager->servers_.push_back(std::move(server));
  }
  MOSE_TRY(pager->adopt_spaces());
  Pager* self = pager.get();
  pager->door_ = std::make_shared<Door>();
  pager->door_->pager = self;
  provider.on_local([door = pager->door_](SpaceId source, PageRun run) {
    std::shared_lock lock(door->mutex);
    if (door->pager != nullptr) door->pager->arrived(source, run);
  });
  for (auto& server : pager->servers_) {
    Server* one = server.get();
    one->retry = true;
    one->thread = std::thread([self, one] { self->server_main(*one); });
  }
  pager->filler_ = std::thread([self] { self->filler_main(); });
  return pager;
}

Status Pager::adopt_spaces() {
  const uint32_t count = state_.spaces();
  if (count != 0) MOSE_TRY(serve_space(count - 1));
  for (uint32_t i = 0; i < count; ++i) {
    Space& space = *this->space(i);
    if (space.closed) continue;
    if (doubt_) {
      space.touched = state_.touched(i);
      if (space.known) settle_standby(space);
    }
    // What the dead reader had read and not carried out; a fault among it is reported again by the wake.
    UffdEvent left = decode(state_.slot(i));
    if (left.kind != UffdEvent::Kind::none && left.kind != UffdEvent::Kind::fault) apply_event(space, left);
    state_.end_read(i);
    if (auto woken = uffd_wake_all(space.uffd); !woken) return context("adopt", woken.error());
  }
  return {};
}

Pager::Space* Pager::space(uint32_t index) const {
  MOSE_CHECK(index < space_count(), "a space that is served");
  return spaces_[index].get();
}

// Makes the space of the state, and those before it that another thread has just added, known to a server.
Status Pager::serve_space(uint32_t index) {
  std::lock_guard lock(grow_);
  while (space_count() <= index) MOSE_TRY(serve_next(space_count()));
  return {};
}

Status Pager::serve_next(uint32_t index) {
  auto made = std::make_unique<Space>(policy_);
  made->index = index;
  made->source = state_.source(index);
  made->uffd = state_.uffd(index);
  made->server = servers_[index % servers_.size()].get();
  SpaceState kind = state_.state(index);
  if (kind == SpaceState::serving) {
    made->pages = state_.pages_count(index);
    made->missing = state_.missing_count(index);
    made->known = true;
  }
  if (kind == SpaceState::closed || kind == SpaceState::forgotten) {
    made->closed = true;
    made->forgotten = kind == SpaceState::forgotten;
    made->uffd = -1;
  }
  int uffd = made->uffd;
  Server* server = made->server;
  spaces_[index] = std::move(made);
  space_count_.store(index + 1, std::memory_order_release);
  if (uffd < 0) return {};
  epoll_event event{.events = EPOLLIN, .data = {.u64 = index}};
  if (::epoll_ctl(server->epoll.get(), EPOLL_CTL_ADD, uffd, &event) != 0) return fail_errno("watch a userfaultfd");
  return {};
}

Status Pager::add_task(SpaceId source, Fd uffd) {
  MOSE_ASSIGN(Fd kept, into_custody(std::move(uffd)));
  MOSE_ASSIGN(uint32_t index, state_.add_space(source, kept.get()));
  (void)kept.release();  // the table's from now on: closed by drop() or close_all(), or kept by the guardian
  MOSE_TRY(serve_space(index));
  wake_filler();
  return {};
}

void Pager::notice_sealed() {
  if (standby_) {
    sealed_us_ = to_us(now());
    // The switchover waits for the stale pages.
    if (policy_.realtime && restore_ended_) become_realtime(filler_.native_handle());
  }
  wake_servers();
  wake_filler();
}

void Pager::restore_ended() {
  state_.header().restore_ended = 1;
  restore_ended_ = true;
  wake_filler();
}

void Pager::pause() { paused_ = true; }

void Pager::resume() {
  paused_ = false;
  wake_servers();
  wake_filler();
}

void Pager::running() {
  state_.header().thawed = 1;
  state_.header().standby = 0;
  running_ = true;
  standby_ = false;
  wake_filler();
}

void Pager::add_waits(uint32_t index, PageWaits& waits) const {
  Space& one = *spaces_[index];
  std::lock_guard lock(one.lock);
  for (const Waiting& fault : one.waiting) waits.add({one.source, fault.page, to_us(fault.since)});
}

PagerStats Pager::stats() const {
  PagerStats out;
  uint64_t missing = 0;
  for (uint32_t i = 0; i < space_count(); ++i) {
    const Space& s = *spaces_[i];
    if (s.forgotten) continue;
    ++out.spaces;
    out.present_pages += s.pages;
    missing += s.missing;
    if (running_ && s.missing != 0) add_waits(i, out.waits);
  }
  out.installed_pages = out.present_pages - std::min(missing, out.present_pages);
  out.unregistered_pages = unregistered_;
  const auto& header = state_.header();
  out.faults = header.faults;
  out.zero_faults = header.zero_faults;
  out.remote_faults = header.remote_faults;
  out.fault_p50_us = latency_.percentile_us(50);
  out.fault_p99_us = latency_.percentile_us(99);
  out.fault_max_us = latency_.max_us();
  out.fork_events = header.fork_events;
  out.remap_events = header.remap_events;
  out.remove_events = header.remove_events;
  out.first_fault_us = header.first_fault_us;
  out.complete_us = complete_us_;
  out.filled = filled_;
  out.standby = {.standby = standby_,
                 .staged = staged_,
                 .refreshed = refreshed_,
                 .staged_pages = staged_pages_,
                 .restaged_pages = restaged_pages_,
                 .stale_pages = stale_pages_,
                 .zeroed_pages = zeroed_pages_,
                 .remote_pages = stale_remote_,
                 .discarded_pages = discarded_pages_,
                 .staged_us = staged_us_,
                 .sealed_us = sealed_us_,
                 .refreshed_us = refreshed_us_};
  return out;
}

void Pager::stop() {
  if (stop_.exchange(true)) return;
  provider_.on_local(nullptr);
  if (door_) {
    std::unique_lock lock(door_->mutex);
    door_->pager = nullptr;
  }
  for (auto& server : servers_) {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(server->wake.get(), &one, sizeof one);
  }
  wake_filler();
  for (auto& server : servers_)
    if (server->thread.joinable()) server->thread.join();
  if (filler_.joinable()) filler_.join();
}

void Pager::close_all() {
  MOSE_CHECK(stop_, "the pager's threads have ended");
  for (uint32_t i = 0; i < space_count(); ++i) {
    std::lock_guard lock(spaces_[i]->lock);
    drop(*spaces_[i]);
  }
}

// The space's process is gone, or all of it is in. Under its lock.
void Pager::drop(Space& space) {
  if (space.uffd < 0) return;
  state_.set_state(space.index, SpaceState::closed);
  space.closed = true;
  space.missing = 0;
  space.waiting.clear();
  space.stalled = false;
  ::close(std::exchange(space.uffd, -1));
}

void Pager::fail_once(Error error) {
  // A standby that is on its way out takes its failures with it.
  if (drop_asked_) return;
  log::error("the pager has failed", {{"reason", error.what}});
  if (!failed_.exchange(true) && callbacks_.on_failure) callbacks_.on_failure(std::move(error));
}

}  // namespace mose::restore
