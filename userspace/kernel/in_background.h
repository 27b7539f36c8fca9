// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

namespace mose {

// The calling thread runs on what others leave of the processors (SCHED_IDLE), until this is over: for work that nobody
// waits for yet, beside work that everybody waits for.
class InBackground {
 public:
  InBackground();
  ~InBackground() { end(); }
  InBackground(const InBackground&) = delete;
  InBackground& operator=(const InBackground&) = delete;

  // Any thread, as long as that one lives: one in the background may not come to end it itself.
  void end();

 private:
  pid_t thread_ = 0;  // 0: nothing to put back
  int policy_ = 0;
};

}  // namespace mose
