// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <mutex>

#include "base/clock.h"

namespace mose::move {

// Lets urgent requests go before bulk data: the pusher waits here before each frame while a request is being answered.
// Shared by one migration's page server threads and its page sender.
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
};

}  // namespace mose::move
