// SPDX-License-Identifier: MIT
#include "agent/pager_link.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>

#include <utility>

#include "base/log.h"
#include "restore/guardian.h"
#include "restore/last_word.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kRetryPause = std::chrono::milliseconds(50);
constexpr unsigned kFailuresBeforeReplacing = 20;  // one second without anybody listening

}  // namespace

PagerLink::PagerLink(EventLoop& loop, restore::PagerLaunch launch, Handlers handlers)
    : loop_(loop), launch_(std::move(launch)), handlers_(std::move(handlers)) {}

PagerLink::~PagerLink() {
  loop_.cancel(timer_);
  if (client_) loop_.unwatch(client_->fd());
}

void PagerLink::connect() {
  timer_ = 0;
  auto client = restore::PagerClient::connect(launch_.socket);
  if (!client) return heard_last_word() ? note_phase() : retry();
  client_.emplace(std::move(*client));
  failures_ = 0;
  ++connection_;
  if (auto watched = loop_.watch(client_->fd(), EPOLLIN, [this](uint32_t events) { on_ready(events); }); !watched) {
    return lost(watched.error().what);
  }
  stale_told_ = false;
  if (standby_asked_) (void)client_->standby(discards_);
  if (dropping_) (void)client_->standby_dropped();
  if (awaited_) (void)client_->pages_awaited();
  if (thawed_) (void)client_->thawed();
}

void PagerLink::thawed() {
  thawed_ = true;
  if (client_) (void)client_->thawed();
}

void PagerLink::standby(bool discards) {
  standby_asked_ = true;
  discards_ = discards;
  if (client_) (void)client_->standby(discards);
}

void PagerLink::pages_awaited() {
  if (std::exchange(awaited_, true)) return;
  if (client_) (void)client_->pages_awaited();
}

void PagerLink::discarded(const std::vector<restore::StalePages>& kept) {
  if (client_) (void)client_->discarded(kept);
}

void PagerLink::standby_dropped() {
  standby_asked_ = awaited_ = false;
  dropping_ = true;
  if (client_) (void)client_->standby_dropped();
}

void PagerLink::note_standby() {
  const restore::PagerStandby& standby = status_.standby;
  if (dropping_) {
    if (standby.standby || status_.phase != restore::PagerPhase::listening) return;
    dropping_ = fenced_ = staged_ = filled_ = stale_told_ = false;
    return handlers_.on_standby_gone();
  }
  if (standby_asked_ && (standby.standby || !standby.refusal.empty())) {
    standby_asked_ = false;
    handlers_.on_standby(standby.standby ? "" : standby.refusal);
  }
  if (standby.staged && !std::exchange(staged_, true)) handlers_.on_staged();
  if (!status_.stale.empty() && !std::exchange(stale_told_, true)) handlers_.on_stale(std::exchange(status_.stale, {}));
  if (standby.refreshed && !std::exchange(refreshed_, true)) handlers_.on_refreshed();
}

// A pager that was done, and has gone since.
bool PagerLink::heard_last_word() {
  auto word = restore::read_last_word(launch_.socket);
  if (!word) return false;
  status_ = std::move(*word);
  return true;
}

void PagerLink::on_ready(uint32_t) {
  auto events = client_->on_ready();
  status_ = client_->status();
  note_standby();
  // The last word may come together with the end of the connection: looked at first.
  const bool completes = !complete_ && status_.phase == restore::PagerPhase::complete;
  note_phase();
  if (completes) return;  // this may have been destroyed
  handlers_.on_progress();
  if (!events) return lost(events.error().what);
  if (status_.phase == restore::PagerPhase::failed) handlers_.on_failed(status_.reason);
}

void PagerLink::note_phase() {
  bool complete = status_.phase == restore::PagerPhase::complete;
  bool fenced = complete || status_.phase == restore::PagerPhase::fenced || status_.phase == restore::PagerPhase::running;
  if (fenced && !fenced_) {
    fenced_ = true;
    handlers_.on_fenced();
  }
  if (!dropping_ && (complete || status_.progress.filled) && !std::exchange(filled_, true)) handlers_.on_filled();
  if (complete && !complete_) {
    complete_ = true;
    handlers_.on_complete();  // may destroy this
  }
}

void PagerLink::lost(const std::string& reason) {
  loop_.unwatch(client_->fd());
  client_.reset();
  ++connection_;
  if (complete_) return;
  if (!status_.sealed || !handlers_.may_be_replaced()) return handlers_.on_died(reason);
  log::info("the connection to the pager is gone", {{"reason", reason}});
  retry();
}

void PagerLink::retry() {
  if (++failures_ % kFailuresBeforeReplacing == 0) replace_dead_pager();
  timer_ = loop_.after(kRetryPause, [this] { connect(); });
}

// Two of them would read from the same userfaultfds. One that was started a second ago may not listen yet.
void PagerLink::replace_dead_pager() {
  auto guardians = restore::read_guardians(launch_.socket);
  if ((replacement_.valid() && replacement_.alive()) || (guardians && restore::pager_lives(*guardians))) {
    if (!std::exchange(slow_told_, true)) log::warn("a pager lives and does not listen: it is waited for");
    return;
  }
  slow_told_ = false;
  if (!guardians) {
    if (guardians.error().code != ENOENT) log::error("a dead pager cannot be replaced", {{"reason", guardians.error().what}});
    if (guardians.error().code == ENOENT && !std::exchange(nobody_told_, true))
      handlers_.on_failed("it has died, its guardian too, and nothing says that every page had come");
    return;
  }
  restore::PagerLaunch launch = launch_;
  launch.adopt = guardians->current.pid;
  auto pager = restore::launch_pager(launch);
  if (pager) {
    replacement_ = std::move(*pager);
    log::warn("a dead pager was replaced; its guardian kept everything", {{"guardian", guardians->current.pid}});
    failures_ = 0;
  } else {
    log::error("a dead pager could not be replaced", {{"reason", pager.error().what}});
  }
}

Status end_pager(const std::string& socket_path, Nanoseconds bound) {
  Timestamp deadline = now() + bound;
  auto guardian = restore::read_guardian_file(socket_path);
  if (auto client = restore::PagerClient::connect(socket_path)) {
    MOSE_TRY(client->quit(true));
    // Until it closes our connection; a second one would replace this one, perhaps before it was read.
    while (now() < deadline && client->on_ready()) {
      pollfd ready{client->fd(), static_cast<short>(POLLIN | (client->wants_write() ? POLLOUT : 0)), 0};
      (void)poll(&ready, 1, 20);
    }
  }
  if (!guardian) return {};
  auto process = ProcessHandle::open_same(static_cast<pid_t>(guardian->pid), guardian->start_time);
  if (!process) return {};
  (void)process->wait_ended(std::chrono::milliseconds(200));
  (void)process->signal(SIGKILL);
  return process->wait_ended(bound);
}

}  // namespace mose::agent
