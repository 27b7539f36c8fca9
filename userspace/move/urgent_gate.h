// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>

#include "base/clock.h"
#include "model/page_table.h"

namespace mose::move {

// Lets urgent requests go before bulk data: the pusher waits here before each frame while a request is being answered, and
// leaves out what was answered already (were the answer lost, the destination would ask again). Shared by one migration's
// page server threads and its page sender.
class UrgentGate {
 public:
  // Longest pause of one bulk frame, so that a flood of requests cannot starve the push.
  static constexpr Nanoseconds kPauseMax = std::chrono::milliseconds(20);

  class Pass {
   public:
    explicit Pass(UrgentGate& gate) : gate_(gate) { gate_.enter(); }
    ~Pass() { gate_.leave(); }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    UrgentGate& gate_;
  };

  // The pusher: returns when no request is under way, or after kPauseMax.
  void wait() {
    std::unique_lock lock(mutex_);
    idle_.wait_for(lock, kPauseMax, [this] { return under_way_ == 0; });
  }

  void mark_answered(SpaceId space, const PageSet& pages) {
    std::lock_guard lock(mutex_);
    for (const PageRun& run : pages.runs()) {
      for (uint64_t page = run.first; page < run.end(); ++page) answered_[space].set(page, 1);
    }
  }
  // The pages of `run` that were not answered yet.
  [[nodiscard]] PageSet unanswered(SpaceId space, PageRun run) {
    PageSet out;
    std::lock_guard lock(mutex_);
    auto it = answered_.find(space);
    for (uint64_t page = run.first; page < run.end(); ++page) {
      if (it == answered_.end() || it->second.get(page) == 0) out.add({page, 1});
    }
    return out;
  }

 private:
  void enter() {
    std::lock_guard lock(mutex_);
    ++under_way_;
  }
  void leave() {
    std::lock_guard lock(mutex_);
    if (--under_way_ == 0) idle_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable idle_;
  unsigned under_way_ = 0;
  std::map<SpaceId, PageTable<uint8_t>> answered_;
};

}  // namespace mose::move
