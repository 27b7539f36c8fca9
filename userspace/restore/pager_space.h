// SPDX-License-Identifier: MIT
#pragma once

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "restore/pager.h"
#include "restore/read_ahead.h"

// Inside of the pager: what its files share.
namespace mose::restore {

// A mutex whose holder inherits the priority of who waits for it, and which is handed to the first waiter on unlock: a
// std::mutex would be retaken at once by a loop that releases and takes it (faults were seen to starve for 470 ms).
class HandOverMutex {
 public:
  HandOverMutex() {
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    ::pthread_mutex_init(&mutex_, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
  }
  ~HandOverMutex() { ::pthread_mutex_destroy(&mutex_); }
  HandOverMutex(const HandOverMutex&) = delete;
  HandOverMutex& operator=(const HandOverMutex&) = delete;
  void lock() { ::pthread_mutex_lock(&mutex_); }
  void unlock() { ::pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

// A fault that has been read and not been answered.
struct Pager::Waiting {
  uint64_t page = 0;
  uint64_t source = 0;  // of a remote page, where it was asked for
  bool write = false;
  bool remote = false;  // counted as such
  Answer state = Answer::not_yet;
  Timestamp since{};
};

struct Pager::Space {
  explicit Space(const PagerPolicy& policy) : ahead(policy.remote_around, policy.remote_ahead_max) {}
  uint32_t index = 0;
  SpaceId source = 0;
  Server* server = nullptr;
  HandOverMutex lock;
  // Under the lock:
  int uffd = -1;  // a borrow from the descriptor table; -1: closed
  std::vector<Waiting> waiting;
  ReadAhead ahead;
  std::vector<PageRun> early;  // removed or unmapped before the pages were known
  PageSet touched;             // of a standby: put in before the seal
  // Read without it:
  std::atomic<uint64_t> pages{0};    // all that the final map names
  std::atomic<uint64_t> missing{0};
  std::atomic<bool> known{false};    // pages are known
  std::atomic<bool> closed{false};
  std::atomic<bool> stalled{false};  // a waiting fault must be looked at again soon
  std::atomic<bool> forgotten{false};  // was a dropped standby's
  // The filler's own:
  bool planned = false;
  PageSet stale;       // of a standby, once its pages are known: to be rewritten
  bool stale_looked_up = false;  // where each of them is; since then some have come, no more
  PageSet offered;     // likewise, and to be taken out of it by who can
  PageSet unstageable; // in the provider, and in no mapping that is registered
  SpaceMemory memory;
};

struct Pager::Server {
  Fd epoll;
  Fd wake;  // eventfd
  std::thread thread;
  std::atomic<bool> retry{false};  // look at waiting faults
};

inline constexpr uint64_t kWakeTag = ~uint64_t{0};

inline constexpr uint64_t kZeroPagesMax = 16;
alignas(kPageSize) inline constexpr std::array<std::byte, kZeroPagesMax * kPageSize> kZeroPages{};

// Pages to be written and their places, piece by piece.
struct Pager::Writes {
  std::vector<iovec> from, to;
  uint64_t bytes_all = 0;
  void add(uint64_t page, std::span<const std::byte> bytes) {
    bytes_all += bytes.size();
    from.push_back({const_cast<std::byte*>(bytes.data()), bytes.size()});
    to.push_back({reinterpret_cast<void*>(page << kPageShift), bytes.size()});
  }
};

void become_realtime(pthread_t thread);
// The calling thread, behind everything that runs for somebody.
inline void become_background() {
  const sched_param parameter{};
  (void)::sched_setscheduler(0, SCHED_BATCH, &parameter);
}

// While an event must be read first.
inline constexpr Nanoseconds kEventPause = std::chrono::microseconds(20);
inline void nap(Nanoseconds duration) {
  const timespec time{.tv_sec = 0, .tv_nsec = duration.count()};
  ::nanosleep(&time, nullptr);
}

}  // namespace mose::restore
