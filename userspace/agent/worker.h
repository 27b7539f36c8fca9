// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "agent/event_loop.h"

// Blocking work outside the event loop. A job runs on a thread, then its completion runs in the loop with the job's
// result: the job sees only what it captured, the completion may touch the agent's state. Both log for the migration for which they were given.
namespace mose::agent {

// One long-lived thread that runs jobs one after the other: the lane of a migration (or of another thing whose steps
// have an order). Its thread is the parent of processes spawned in it, so that PR_SET_PDEATHSIG means the lane.
// The destructor drops jobs not yet begun (with their completions), and waits for the one under way.
class Lane {
 public:
  Lane(EventLoop& loop, const std::string& name);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // From any thread. `done` may be empty.
  void submit(std::function<void()> job, std::function<void()> done = {});

  // `job() -> T`, then `done(T)` in the loop.
  template <typename Job, typename Done>
  void run(Job job, Done done) {
    using T = decltype(job());
    auto slot = std::make_shared<std::unique_ptr<T>>();
    submit([slot, job = std::move(job)]() mutable { *slot = std::make_unique<T>(job()); },
           [slot, done = std::move(done)]() mutable { done(std::move(**slot)); });
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A few threads that share one queue, for short independent jobs. Destruction as for Lane.
class WorkerPool {
 public:
  WorkerPool(EventLoop& loop, unsigned threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void submit(std::function<void()> job, std::function<void()> done = {});
  template <typename Job, typename Done>
  void run(Job job, Done done) {
    using T = decltype(job());
    auto slot = std::make_shared<std::unique_ptr<T>>();
    submit([slot, job = std::move(job)]() mutable { *slot = std::make_unique<T>(job()); },
           [slot, done = std::move(done)]() mutable { done(std::move(**slot)); });
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mose::agent
