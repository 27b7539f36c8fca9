// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>

#include "base/clock.h"
#include "base/result.h"

namespace mose::agent {

// The one thread in which the agent's state lives. Handlers run one after the other and must not block: whatever may
// wait for a disk, a process or a peer is a job of agent/worker.h whose completion is posted back here.
//
// Life: create() in the main thread; watch descriptors, set timers and signals; run() until quit(). Only post() and
// quit() may be called from other threads. A handler may unwatch itself or any other descriptor and cancel any timer:
// nothing is called after that. Descriptors are borrowed: unwatch before closing. What a handler logs is of the migration for which it was
// given (base/log.h).
class EventLoop {
 public:
  using Task = std::function<void()>;
  using FdHandler = std::function<void(uint32_t events)>;  // EPOLLIN, EPOLLOUT, EPOLLHUP, ...
  using TimerId = uint64_t;                                // never 0

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Level-triggered. Watching a descriptor twice is an error.
  [[nodiscard]] Status watch(int fd, uint32_t events, FdHandler handler);
  [[nodiscard]] Status change(int fd, uint32_t events);
  void unwatch(int fd);  // unknown: nothing happens

  TimerId after(Nanoseconds delay, Task task);
  TimerId every(Nanoseconds period, Task task);
  void cancel(TimerId timer);  // unknown or already fired: nothing happens

  // Blocks the signals in this thread (call before any other thread starts) and delivers them here.
  [[nodiscard]] Status on_signals(std::initializer_list<int> signals, std::function<void(int)> handler);

  // From any thread: runs `task` in the loop, in the order of the posts of one thread.
  void post(Task task);

  void run();   // until quit()
  void quit();  // from any thread; run() returns after the handler under way
  // One wait of at most `timeout` and its handlers; for tests and for a bounded end.
  void run_once(Nanoseconds timeout);
  [[nodiscard]] bool in_loop_thread() const;

 private:
  struct Impl;
  explicit EventLoop(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Posts of an object that may be gone before they run: they go with it. From the loop thread, like the object's end.
class OwnPosts {
 public:
  explicit OwnPosts(EventLoop& loop) : loop_(loop) {}
  OwnPosts(const OwnPosts&) = delete;
  OwnPosts& operator=(const OwnPosts&) = delete;

  void operator()(EventLoop::Task task) {
    loop_.post([owner = std::weak_ptr<bool>(alive_), task = std::move(task)] {
      if (owner.lock()) task();
    });
  }

 private:
  EventLoop& loop_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mose::agent
