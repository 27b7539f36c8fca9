// SPDX-License-Identifier: MIT
#include "restore/pager_process.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "restore/last_word.h"
#include "restore/tree_process.h"

namespace mose::restore {
namespace {

constexpr Nanoseconds kFenceCheck = std::chrono::microseconds(200);
constexpr Nanoseconds kLeaveCheck = std::chrono::milliseconds(20);
constexpr Nanoseconds kStallTold = std::chrono::milliseconds(300);
constexpr Nanoseconds kIdleCheck = std::chrono::seconds(1);
constexpr Nanoseconds kSaidMax = std::chrono::milliseconds(100);

}  // namespace

PagerProcess::PagerProcess(PagerProcessOptions options, PagerState& state, PageProvider& provider, Guardian guardian)
    : options_(std::move(options)), state_(state), provider_(provider), guardian_(std::move(guardian)) {}

PagerProcess::~PagerProcess() = default;

Result<std::unique_ptr<PagerProcess>> PagerProcess::start(PagerProcessOptions options, PagerState& state,
                                                          PageProvider& provider, Guardian guardian) {
  std::unique_ptr<PagerProcess> process(new PagerProcess(std::move(options), state, provider, std::move(guardian)));
  MOSE_TRY(process->set_up());
  return process;
}

Status PagerProcess::watch(int fd, uint32_t events) {
  epoll_event event{.events = events, .data = {.fd = fd}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno("epoll");
  return {};
}

Status PagerProcess::set_up() {
  guardian_pid_ = static_cast<uint32_t>(guardian_.process().pid());
  guardian_start_ = guardian_.process().start_time();
  MOSE_ASSIGN(cgroup_, Cgroup::open(options_.cgroup));
  MOSE_ASSIGN(cgroup_events_, open_at(cgroup_.fd(), "cgroup.events", O_RDONLY));
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return fail_errno("epoll");
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return fail_errno("eventfd");
  MOSE_TRY(watch(wake_.get(), EPOLLIN));
  MOSE_TRY(watch(cgroup_events_.get(), EPOLLPRI | EPOLLET));
  MOSE_TRY(watch(guardian_.process().fd(), EPOLLIN));
  if (!options_.adopted) {
    MOSE_ASSIGN(LazySocket lazy, LazySocket::listen(options_.images_dir));
    lazy_.emplace(std::move(lazy));
    MOSE_TRY(watch(lazy_->fd(), EPOLLIN));
  }
  auto on_complete = [this] {
    complete_ = true;
    wake();
  };
  Pager::Callbacks callbacks{.on_complete = on_complete, .on_failure = [this](const Error& error) { fail_here(error); }};
  callbacks.open_memory = [this](SpaceId space) { return open_memory(space); };
  callbacks.open_shared = [this] { return open_shared(); };
  // Posted by the pager's own thread: the switchover waits for one of them.
  // Before there is a server, who connects learns it from the status.
  auto posting = [this](PagerEventKind kind) {
    return [this, kind] {
      if (PagerServer* server = server_now_) server->post(kind);
    };
  };
  callbacks.on_staged = posting(PagerEventKind::staged);
  callbacks.on_refreshed = posting(PagerEventKind::refreshed);
  callbacks.on_stale = posting(PagerEventKind::stale);
  callbacks.on_filled = posting(PagerEventKind::progress);
  callbacks.on_dropped = [this] {
    dropped_ = true;
    wake();
  };
  if (options_.adopted) phase_ = adopted_phase();
  MOSE_ASSIGN(auto pager, Pager::start(state_, provider_, options_.policy, std::move(callbacks)));
  pager_ = std::move(pager);
  PagerServer::Handlers handlers;
  handlers.wake_fd = wake_.get();
  handlers.status = [this] { return status(); };
  handlers.thawed = [this] {
    thawed_ = true;
    wake();
  };
  handlers.standby = [this](bool discards) {
    discards_ = discards;
    standby_asked_ = true;
    wake();
  };
  handlers.pages_awaited = [this] { pager_->pages_awaited(); };
  handlers.discarded = [this](std::vector<StalePages> kept) { pager_->discarded(std::move(kept)); };
  handlers.standby_dropped = [this](std::string images_dir) {
    {
      std::lock_guard lock(mutex_);
      next_images_dir_ = std::move(images_dir);
    }
    drop_asked_ = true;
    wake();
  };
  handlers.quit = [this](bool dead) {
    tree_is_dead_ = dead;
    quit_ = true;
    wake();
  };
  remove_last_word(options_.socket);
  write_guardian_file();
  // Last: who connects learns a state that is true.
  MOSE_ASSIGN(server_, PagerServer::start(options_.socket, std::move(handlers)));
  server_now_ = server_.get();
  // An adopted standby may have become so while there was nobody to tell it by, and somebody connected to hear it.
  if (pager_->refreshed()) server_->post(PagerEventKind::refreshed);
  if (phase_ == PagerPhase::fencing) raise_fence();
  if (phase_ == PagerPhase::failed) restore_failed("the pager died while CRIU restored");
  server_->post(PagerEventKind::listening);
  return {};
}

// Where the pager that we take over from had got to. What CRIU still had to say is lost with a pager that died before.
PagerPhase PagerProcess::adopted_phase() {
  const auto& header = state_.header();
  if (header.restore_ended != 1) return PagerPhase::failed;
  if (header.fenced != 1) return PagerPhase::fencing;
  return header.thawed == 1 ? PagerPhase::running : PagerPhase::fenced;
}

void PagerProcess::wake() {
  uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof one);
}

void PagerProcess::notice_sealed() {
  sealed_ = true;
  pager_->notice_sealed();
  wake();
}

void PagerProcess::fail(const Error& error) { fail_as(error, true); }
void PagerProcess::fail_here(const Error& error) { fail_as(error, false); }

void PagerProcess::fail_as(const Error& error, bool for_good) {
  {
    std::lock_guard lock(mutex_);
    if (reason_.empty() || (for_good && !failed_for_good_)) reason_ = error.what;
    phase_ = PagerPhase::failed;
    if (for_good) failed_for_good_ = true;
    failed_ = true;
  }
  wake();
}

PagerPhase PagerProcess::phase() const {
  std::lock_guard lock(mutex_);
  return phase_;
}

void PagerProcess::set_phase(PagerPhase phase) {
  std::lock_guard lock(mutex_);
  if (phase_ != PagerPhase::failed) phase_ = phase;
}

PagerStatus PagerProcess::status() const {
  std::lock_guard lock(mutex_);
  PagerStatus out;
  out.phase = phase_;
  out.reason = reason_;
  out.sealed = provider_.sealed();
  out.adopted = options_.adopted;
  out.guardian_pid = guardian_pid_;
  out.guardian_start_time = guardian_start_;
  PagerProgress& p = out.progress;
  if (options_.source) {
    auto source = options_.source();
    p.bytes_received = source.bytes_received;
    p.remote_left = source.remote_left;
    p.trouble = std::move(source.trouble);
  }
  PagerStats s = pager_->stats();
  p.spaces = s.spaces;
  p.present_pages = s.present_pages;
  p.installed_pages = s.installed_pages;
  p.unregistered_pages = s.unregistered_pages;
  p.faults = s.faults;
  p.zero_faults = s.zero_faults;
  p.remote_faults = s.remote_faults;
  p.fault_p50_us = s.fault_p50_us;
  p.fault_p99_us = s.fault_p99_us;
  p.fault_max_us = s.fault_max_us;
  p.fork_events = s.fork_events;
  p.remap_events = s.remap_events;
  p.remove_events = s.remove_events;
  p.first_fault_us = s.first_fault_us;
  p.complete_us = s.complete_us;
  p.filled = s.filled;
  p.waits = s.waits;
  out.standby = {.standby = s.standby.standby,
                 .staged = s.standby.staged,
                 .refreshed = s.standby.refreshed,
                 .staged_pages = s.standby.staged_pages,
                 .restaged_pages = s.standby.restaged_pages,
                 .stale_pages = s.standby.stale_pages,
                 .zeroed_pages = s.standby.zeroed_pages,
                 .remote_pages = s.standby.remote_pages,
                 .discarded_pages = s.standby.discarded_pages,
                 .staged_us = s.standby.staged_us,
                 .sealed_us = s.standby.sealed_us,
                 .refreshed_us = s.standby.refreshed_us,
                 .refusal = refusal_};
  out.stale = pager_->offered();
  return out;
}

Nanoseconds PagerProcess::next_timeout() const {
  if (phase() == PagerPhase::fencing) return kFenceCheck;
  if (quit_) return kLeaveCheck;
  if (complete_) return kIdleCheck;
  return kProgressEvery;
}

void PagerProcess::run() {
  std::array<epoll_event, 8> ready;
  while (!done_) {
    const timespec timeout = to_timespec(next_timeout().count());
    int n = ::epoll_pwait2(epoll_.get(), ready.data(), static_cast<int>(ready.size()), &timeout, nullptr);
    for (int i = 0; i < n; ++i) {
      int fd = ready[static_cast<size_t>(i)].data.fd;
      if (lazy_ && fd == lazy_->fd()) lazy_ready();
      if (fd == cgroup_events_.get()) {
        // A watched control file stays ready until it is read.
        char text[256];
        [[maybe_unused]] ssize_t got = ::pread(fd, text, sizeof text, 0);
      }
      if (fd == wake_.get()) {
        uint64_t count;
        [[maybe_unused]] ssize_t got = ::read(wake_.get(), &count, sizeof count);
      }
    }
    check_fence();
    check_guardian();
    check_requests();
  }
  leave();
}

void PagerProcess::lazy_ready() {
  const int before = lazy_->fd();
  for (auto& message : lazy_->receive()) {
    if (auto* task = std::get_if<LazySocket::Task>(&message)) {
      if (auto added = pager_->add_task(task->space, std::move(task->uffd)); !added) fail_here(added.error());
    } else if (std::holds_alternative<LazySocket::Zombie>(message)) {
      ++state_.header().zombies;
    } else if (std::holds_alternative<LazySocket::Finished>(message)) {
      // Not the moment for the fence: from here to its pre-resume hook CRIU still runs system calls in the tasks (it
      // unmaps its restorer), and a frozen task never finishes them: CRIU would wait for ever.
      finished_ = true;
    } else if (auto* end = std::get_if<LazySocket::Ended>(&message)) {
      // CRIU has gone, by itself or killed: nothing but the cgroup holds the tree from here on.
      if (finished_) raise_fence();
      else
        restore_failed(end->reason.empty() ? "CRIU's connection ended before the restore was finished" : end->reason);
    }
  }
  if (phase() == PagerPhase::listening && lazy_->connected()) {
    set_phase(PagerPhase::restoring);
    server_->post(PagerEventKind::status);
  }
  // The descriptor of the listener or of the ended connection left the set by being closed.
  if (lazy_->fd() != before || !lazy_->connected()) {
    if (lazy_->fd() >= 0) {
      if (auto watched = watch(lazy_->fd(), EPOLLIN); !watched && watched.error().code != EEXIST) fail_here(watched.error());
    } else {
      lazy_.reset();
    }
  }
}

Status PagerProcess::begin_standby() {
  if (phase() != PagerPhase::listening) return mose::fail("CRIU has connected already");
  return pager_->standby(discards_);
}

void PagerProcess::refuse(std::string reason) {
  if (!reason.empty()) log::warn("a standby is refused", {{"reason", reason}});
  {
    std::lock_guard lock(mutex_);
    refusal_ = std::move(reason);
  }
  server_->post(PagerEventKind::status);
}

void PagerProcess::check_standby() {
  if (standby_asked_.exchange(false)) {
    auto begun = begin_standby();
    refuse(begun ? std::string() : begun.error().what);
  }
  if (drop_asked_.exchange(false)) {
    if (pager_->is_standby()) {
      // CRIU has gone, or goes now: nothing that it still says counts.
      lazy_.reset();
      dropping_ = true;
      pager_->drop_standby();
    } else {
      refuse(state_.header().thawed == 1 ? "the tree runs" : "there is no standby");
    }
  }
  if (dropped_.exchange(false)) standby_gone();
}

// As before the first connection.
void PagerProcess::standby_gone() {
  std::string directory;
  {
    std::lock_guard lock(mutex_);
    if (!next_images_dir_.empty()) options_.images_dir = next_images_dir_;
    directory = options_.images_dir;
    refusal_.clear();
    finished_ = false;
    fence_since_ = {};
    if (!failed_for_good_) {
      failed_ = failed_told_ = false;
      reason_.clear();
      phase_ = PagerPhase::listening;
    }
    thawed_ = false;
  }
  dropping_ = false;
  auto lazy = LazySocket::listen(directory);
  if (!lazy) return fail(lazy.error());
  lazy_.emplace(std::move(*lazy));
  if (auto watched = watch(lazy_->fd(), EPOLLIN); !watched) return fail(watched.error());
  server_->post(PagerEventKind::status);
  server_->post(PagerEventKind::listening);
}

// The cgroup holds the tree and nothing else once the fence is closed.
Result<SpaceMemory> PagerProcess::open_memory(SpaceId space) const {
  SpaceMemory found;
  MOSE_ASSIGN(found.process, process_of_space(cgroup_, space));
  MOSE_ASSIGN(found.memory, open_file("/proc/" + std::to_string(found.process.pid()) + "/mem", O_RDWR));
  // Still the one whose id was read.
  if (!found.process.alive()) return mose::fail("process " + std::to_string(space) + " has ended");
  return found;
}

Result<SharedMemory> PagerProcess::open_shared() const {
  std::string directory;
  {
    std::lock_guard lock(mutex_);
    directory = options_.images_dir;
  }
  return SharedMemory::open(directory, [this](SpaceId space) -> Result<int> {
    MOSE_ASSIGN(ProcessHandle found, process_of_space(cgroup_, space));
    return found.pid();
  });
}

void PagerProcess::raise_fence() {
  // Asked for before anything else. In a regular restore mosed has frozen it in the pre-resume hook already; mosed gives
  // no READY before we have said fenced, so that this never comes after a thaw.
  auto asked = cgroup_.request_freeze();
  pager_->pause();
  state_.header().restore_ended = 1;
  fence_since_ = now();
  let_in_ = false;
  if (!asked) fail_here(asked.error());
  set_phase(PagerPhase::fencing);
  check_fence();
}

void PagerProcess::check_fence() {
  if (phase() != PagerPhase::fencing || dropping_) return;
  auto frozen = cgroup_.frozen();
  if (!frozen) return fail_here(frozen.error());
  if (!*frozen) {
    if (now() - fence_since_ > kFenceBound) fail_here({0, "the workload's cgroup does not freeze"});
    return;
  }
  if (!std::exchange(let_in_, true)) {
    pager_->restore_ended();
    pager_->resume();
  }
  // What is shared cannot come by faults: before it is in the tree counts as one that is being restored.
  if (!pager_->is_standby() && !pager_->shared_done()) return;
  state_.header().fenced = 1;
  set_phase(PagerPhase::fenced);
  server_->post(PagerEventKind::restored);
  log::info("the restored tree is fenced", {{"tasks", pager_->stats().spaces}});
}

void PagerProcess::restore_failed(const std::string& reason) {
  (void)cgroup_.request_freeze();
  pager_->pause();
  state_.header().restore_ended = 2;
  fail_here({0, reason});
}

void PagerProcess::check_requests() {
  check_standby();
  if (sealed_ && !sealed_told_) {
    sealed_told_ = true;
    server_->post(PagerEventKind::sealed);
  }
  if (thawed_ && phase() == PagerPhase::fenced && !dropping_) {
    // Rewriting now would undo what the tree does; not rewriting leaves it what it must not see.
    if (pager_->is_standby() && !pager_->refreshed()) {
      (void)cgroup_.request_freeze();
      pager_->pause();
      fail_here({0, "a standby was thawed before it was refreshed"});
    } else {
      pager_->running();
      set_phase(PagerPhase::running);
    }
  }
  if (failed_ && !failed_told_) {
    failed_told_ = true;
    server_->post(PagerEventKind::failed);
  }
  if (complete_ && complete_since_ == Timestamp{}) completed();
  Timestamp time = now();
  if (time - progress_at_ >= kProgressEvery) {
    progress_at_ = time;
    PagerStats stats = pager_->stats();
    uint64_t mark = stats.installed_pages + stats.faults + stats.present_pages;
    // Who stands still moves nothing, and must be told of all the same: once more when it is over.
    bool stalled = stats.waits.since_us() != 0 && stats.waits.since_us() <= to_us(time - kStallTold);
    if (options_.source) {
      auto source = options_.source();
      mark += source.bytes_received;
      stalled = stalled || !source.trouble.reason.empty();
    }
    const bool was_stalled = std::exchange(stall_told_, stalled);
    if (mark != std::exchange(progress_told_, mark) || stalled || was_stalled) server_->post(PagerEventKind::progress);
  }
  // By its own mark, not by complete_: another thread may have set that one since it was looked at above.
  if (complete_since_ != Timestamp{}) {
    done_ = quit_ || time - complete_since_ > kLingerMax;
  } else if (quit_) {
    pager_->pause();
    done_ = tree_is_dead_ || tree_gone();
  }
}

bool PagerProcess::tree_gone() const {
  auto populated = cgroup_.populated();
  // The group is removed only when it is empty.
  return !populated || !*populated;
}

void PagerProcess::completed() {
  complete_since_ = now();
  // The workload may leave this node and its group with it; a watched file of a removed group is always ready.
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, cgroup_events_.get(), nullptr);
  pager_->stop();
  // Written down and said before the guardian ends: who is killed from here on has said that nothing is missing, and no other
  // pager is started, which would find nobody to go on from.
  set_phase(PagerPhase::complete);
  const auto written = write_last_word(options_.socket, status());
  if (!written) log::error("that every page is in cannot be written down: the guardian stays, for who takes over", {{"reason", written.error().what}});
  server_->post(PagerEventKind::complete);
  server_->wait_said(kSaidMax);
  if (written) {
    guardian_.stop();
    remove_guardians(options_.socket);
  }
  if (options_.on_pages_complete) options_.on_pages_complete();
  PagerStats stats = pager_->stats();
  log::info("every page is in", {{"pages", stats.present_pages},
                                 {"faults", stats.faults},
                                 {"remote_faults", stats.remote_faults},
                                 {"fault_p50_us", stats.fault_p50_us},
                                 {"fault_p99_us", stats.fault_p99_us}});
}

// Somebody has killed the guardian: another one, at once. While there is none our death would cost the workload's memory.
void PagerProcess::check_guardian() {
  if (complete_ || quit_ || guardian_.alive()) return;
  log::warn("the guardian has died; another one is started", {{"pid", guardian_pid_}});
  guardian_.stop();
  auto next = Guardian::start();
  if (!next) {
    log::error("no guardian", {{"reason", next.error().what}});
    return;
  }
  guardian_ = std::move(*next);
  write_guardian_file();  // first: whoever is told of it finds it written down
  {
    std::lock_guard lock(mutex_);
    guardian_pid_ = static_cast<uint32_t>(guardian_.process().pid());
    guardian_start_ = guardian_.process().start_time();
  }
  (void)watch(guardian_.process().fd(), EPOLLIN);
}

void PagerProcess::write_guardian_file() {
  auto written = write_guardians(options_.socket, {.current = guardian_.name(), .stale = {}});
  if (!written) log::error("the guardian cannot be written down", {{"reason", written.error().what}});
}

void PagerProcess::leave() {
  pager_->stop();
  pager_->close_all();
  guardian_.stop();
  remove_guardians(options_.socket);
  server_now_ = nullptr;
  server_.reset();
}

}  // namespace mose::restore
