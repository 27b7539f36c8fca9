// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <atomic>

namespace mose {

// A thread that runs on what others leave of the processors (SCHED_IDLE) for a while: for work that nobody waits for yet,
// beside work that everybody waits for.
//
// Life: made by that thread, which then calls begin(), best without a lock in hand; end() puts it back. Any thread may do that, as
// long as that one lives: one in the background may not come to end it itself.
class InBackground {
 public:
  InBackground();
  ~InBackground() { end(); }
  InBackground(const InBackground&) = delete;
  InBackground& operator=(const InBackground&) = delete;

  void begin();
  void end();

 private:
  void put_back() const;
  const pid_t thread_;
  const int policy_;
  std::atomic<bool> ended_{false};
};

}  // namespace mose
