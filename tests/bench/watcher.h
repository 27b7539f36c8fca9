// SPDX-License-Identifier: MIT
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <new>
#include <thread>

#include "base/clock.h"
#include "bench.h"

namespace mose::test {

// A process that wakes every half millisecond on one processor, for as long as the object lives: what others there take from whoever
// would run. In a session of its own, as another service is: the kernel shares a processor out between sessions.
class Watcher {
 public:
  static constexpr Nanoseconds kEvery = std::chrono::microseconds(500);

  explicit Watcher(int processor) {
    void* at = ::mmap(nullptr, sizeof(Seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) die("mmap");
    seen_ = new (at) Seen;
    pid_ = ::fork();
    if (pid_ < 0) die("fork");
    if (pid_ == 0) watch(processor);
    while (!seen_->watching) std::this_thread::sleep_for(kEvery);
  }
  ~Watcher() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::munmap(seen_, sizeof(Seen));
  }
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  // From its begin to now, the longest from one time to the next.
  [[nodiscard]] double longest_ms() const { return to_ms(seen_->longest.load()); }

 private:
  struct Seen {
    std::atomic<Nanoseconds> longest = Nanoseconds(0);
    std::atomic<bool> watching = false;
  };
  [[noreturn]] void watch(int processor) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    pin_to(0, processor);
    for (Timestamp last = now();;) {
      std::this_thread::sleep_for(kEvery);
      const Timestamp woken = now();
      seen_->longest = std::max(seen_->longest.load(), woken - last);
      last = woken;
      seen_->watching = true;
    }
  }

  Seen* seen_ = nullptr;
  pid_t pid_ = 0;
};

}  // namespace mose::test
