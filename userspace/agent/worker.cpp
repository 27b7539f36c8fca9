// SPDX-License-Identifier: MIT
#include "agent/worker.h"

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/log.h"

namespace mose::agent {
namespace {

// The queue and threads of both kinds. Completions hold a weak reference: one that is posted when the owner has gone is
// dropped, since what it would touch may have gone too.
struct Queue {
  Queue(EventLoop& l, unsigned threads, const std::string& name) : loop(l) {
    // Signals belong to the loop's signalfd: worker threads block them all.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    for (unsigned i = 0; i < threads; ++i) {
      workers.emplace_back([this] { work(); });
      pthread_setname_np(workers.back().native_handle(), name.substr(0, 15).c_str());
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~Queue() {
    {
      std::lock_guard guard(lock);
      closing = true;
      jobs.clear();
    }
    changed.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void submit(std::function<void()> job, std::function<void()> done) {
    job = log::carried(std::move(job));
    if (done) done = log::carried(std::move(done));
    {
      std::lock_guard guard(lock);
      jobs.emplace_back(std::move(job), std::move(done));
    }
    changed.notify_one();
  }

  void work() {
    std::unique_lock guard(lock);
    for (;;) {
      changed.wait(guard, [this] { return closing || !jobs.empty(); });
      if (closing) return;
      auto [job, done] = std::move(jobs.front());
      jobs.pop_front();
      guard.unlock();
      job();
      job = {};  // what the job captured goes before its completion runs
      if (done) {
        loop.post([owner = std::weak_ptr<bool>(alive), done = std::move(done)] {
          if (owner.lock()) done();
        });
      }
      guard.lock();
    }
  }

  EventLoop& loop;
  std::mutex lock;
  std::condition_variable changed;
  std::deque<std::pair<std::function<void()>, std::function<void()>>> jobs;
  bool closing = false;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  std::vector<std::thread> workers;
};

}  // namespace

struct Lane::Impl : Queue {
  using Queue::Queue;
};
Lane::Lane(EventLoop& loop, const std::string& name) : impl_(std::make_unique<Impl>(loop, 1, name)) {}
Lane::~Lane() = default;
void Lane::submit(std::function<void()> job, std::function<void()> done) {
  impl_->submit(std::move(job), std::move(done));
}

struct WorkerPool::Impl : Queue {
  using Queue::Queue;
};
WorkerPool::WorkerPool(EventLoop& loop, unsigned threads) : impl_(std::make_unique<Impl>(loop, threads, "worker")) {}
WorkerPool::~WorkerPool() = default;
void WorkerPool::submit(std::function<void()> job, std::function<void()> done) {
  impl_->submit(std::move(job), std::move(done));
}

}  // namespace mose::agent
