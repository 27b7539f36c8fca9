// SPDX-License-Identifier: MIT
#include "agent/event_loop.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/fd.h"
#include "base/log.h"

namespace mose::agent {
namespace {

constexpr int kEventsPerWait = 64;

struct Timer {
  Timestamp due;
  Nanoseconds period{0};  // 0: once
  EventLoop::Task task;
};

}  // namespace

struct EventLoop::Impl {
  Fd epoll, wake, timer_fd, signal_fd;
  std::thread::id thread = std::this_thread::get_id();
  std::atomic<bool> stop{false};

  // A handler is kept by shared_ptr, so that it may remove itself while it runs; the generation tells an event of an
  // earlier descriptor of the same number from one of the present.
  struct Watch {
    std::shared_ptr<FdHandler> handler;
    uint32_t generation = 0;
  };
  std::unordered_map<int, Watch> watches;
  uint32_t next_generation = 1;

  std::map<TimerId, Timer> timers;
  std::multimap<Timestamp, TimerId> due;
  TimerId next_timer = 1;
  std::function<void(int)> signal_handler;

  std::mutex posted_lock;
  std::vector<Task> posted;

  Status add(int fd, uint32_t events, FdHandler handler) {
    if (watches.contains(fd)) return fail("descriptor is watched already");
    uint32_t generation = next_generation++;
    epoll_event event{.events = events,
                      .data = {.u64 = (static_cast<uint64_t>(generation) << 32) | static_cast<uint32_t>(fd)}};
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno("watch a descriptor");
    watches[fd] = {std::make_shared<FdHandler>(log::carried(std::move(handler))), generation};
    return {};
  }

  TimerId add_timer(Nanoseconds delay, Nanoseconds period, Task task) {
    TimerId id = next_timer++;
    Timestamp when = now() + delay;
    timers[id] = {when, period, log::carried(std::move(task))};
    due.emplace(when, id);
    arm();
    return id;
  }

  void remove_due(TimerId id, Timestamp when) {
    auto [from, to] = due.equal_range(when);
    for (auto it = from; it != to; ++it) {
      if (it->second == id) {
        due.erase(it);
        return;
      }
    }
  }

  void arm() {
    itimerspec spec{};
    if (!due.empty()) {
      auto nanoseconds = due.begin()->first.time_since_epoch().count();
      if (nanoseconds <= 0) nanoseconds = 1;  // 0 would disarm
      spec.it_value = to_timespec(nanoseconds);
    }
    timerfd_settime(timer_fd.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
  }

  void run_timers() {
    uint64_t expirations;
    while (::read(timer_fd.get(), &expirations, sizeof expirations) > 0) {
    }
    // Only what is due now: a task that sets a timer of zero length must not starve the descriptors.
    Timestamp limit = now();
    while (!stop && !due.empty() && due.begin()->first <= limit) {
      TimerId id = due.begin()->second;
      due.erase(due.begin());
      auto it = timers.find(id);
      if (it->second.period > Nanoseconds(0)) {
        it->second.due = limit + it->second.period;
        due.emplace(it->second.due, id);
        Task task = it->second.task;  // a copy: the task may cancel itself
        task();
      } else {
        Task task = std::move(it->second.task);
        timers.erase(it);
        task();
      }
    }
    arm();
  }

  void run_posted() {
    uint64_t count;
    while (::read(wake.get(), &count, sizeof count) > 0) {
    }
    std::vector<Task> tasks;
    {
      std::lock_guard guard(posted_lock);
      tasks.swap(posted);
    }
    for (Task& task : tasks) task();
  }

  void run_signals() {
    signalfd_siginfo info;
    while (::read(signal_fd.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      if (signal_handler) signal_handler(static_cast<int>(info.ssi_signo));
    }
  }

  void wait(int timeout_ms) {
    std::array<epoll_event, kEventsPerWait> events;
    int count = epoll_wait(epoll.get(), events.data(), kEventsPerWait, timeout_ms);
    for (int i = 0; i < count && !stop; ++i) {
      int fd = static_cast<int>(events[static_cast<size_t>(i)].data.u64 & 0xffffffffu);
      auto generation = static_cast<uint32_t>(events[static_cast<size_t>(i)].data.u64 >> 32);
      auto it = watches.find(fd);
      if (it == watches.end() || it->second.generation != generation) continue;
      auto handler = it->second.handler;
      (*handler)(events[static_cast<size_t>(i)].events);
    }
  }
};

EventLoop::EventLoop(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
EventLoop::~EventLoop() = default;

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  auto impl = std::make_unique<Impl>();
  impl->epoll = Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!impl->epoll) return fail_errno("epoll_create1");
  impl->wake = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake) return fail_errno("eventfd");
  impl->timer_fd = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!impl->timer_fd) return fail_errno("timerfd_create");
  Impl* self = impl.get();
  MOSE_TRY(impl->add(impl->wake.get(), EPOLLIN, [self](uint32_t) { self->run_posted(); }));
  MOSE_TRY(impl->add(impl->timer_fd.get(), EPOLLIN, [self](uint32_t) { self->run_timers(); }));
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(impl)));
}

Status EventLoop::watch(int fd, uint32_t events, FdHandler handler) {
  MOSE_CHECK(in_loop_thread(), "watch outside the loop thread");
  return impl_->add(fd, events, std::move(handler));
}

Status EventLoop::change(int fd, uint32_t events) {
  auto it = impl_->watches.find(fd);
  if (it == impl_->watches.end()) return fail("descriptor is not watched");
  epoll_event event{.events = events,
                    .data = {.u64 = (static_cast<uint64_t>(it->second.generation) << 32) | static_cast<uint32_t>(fd)}};
  if (epoll_ctl(impl_->epoll.get(), EPOLL_CTL_MOD, fd, &event) != 0) return fail_errno("change a watch");
  return {};
}

void EventLoop::unwatch(int fd) {
  if (impl_->watches.erase(fd) != 0) epoll_ctl(impl_->epoll.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::after(Nanoseconds delay, Task task) {
  MOSE_CHECK(in_loop_thread(), "timer outside the loop thread");
  return impl_->add_timer(delay, Nanoseconds(0), std::move(task));
}

EventLoop::TimerId EventLoop::every(Nanoseconds period, Task task) {
  MOSE_CHECK(in_loop_thread(), "timer outside the loop thread");
  MOSE_CHECK(period > Nanoseconds(0), "a period is positive");
  return impl_->add_timer(period, period, std::move(task));
}

void EventLoop::cancel(TimerId timer) {
  auto it = impl_->timers.find(timer);
  if (it == impl_->timers.end()) return;
  impl_->remove_due(timer, it->second.due);
  impl_->timers.erase(it);
  impl_->arm();
}

Status EventLoop::on_signals(std::initializer_list<int> signals, std::function<void(int)> handler) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  if (int code = pthread_sigmask(SIG_BLOCK, &set, nullptr); code != 0) return fail_errno("block signals", code);
  impl_->signal_fd = Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!impl_->signal_fd) return fail_errno("signalfd");
  impl_->signal_handler = std::move(handler);
  Impl* self = impl_.get();
  return impl_->add(impl_->signal_fd.get(), EPOLLIN, [self](uint32_t) { self->run_signals(); });
}

void EventLoop::post(Task task) {
  {
    std::lock_guard guard(impl_->posted_lock);
    impl_->posted.push_back(log::carried(std::move(task)));
  }
  uint64_t one = 1;
  // A full counter means that the loop is awake already.
  [[maybe_unused]] ssize_t written = ::write(impl_->wake.get(), &one, sizeof one);
}

void EventLoop::run() {
  impl_->thread = std::this_thread::get_id();
  while (!impl_->stop) impl_->wait(-1);
  impl_->stop = false;
}

void EventLoop::quit() {
  impl_->stop = true;
  uint64_t one = 1;
  [[maybe_unused]] ssize_t written = ::write(impl_->wake.get(), &one, sizeof one);
}

void EventLoop::run_once(Nanoseconds timeout) {
  impl_->wait(static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(timeout).count()));
}

bool EventLoop::in_loop_thread() const {
  return impl_->thread == std::this_thread::get_id();
}

}  // namespace mose::agent
