// SPDX-License-Identifier: MIT
#pragma once

#include "kernel/lock_turns.h"

namespace mose {

// First among equals for as long as it lasts: the calling thread is a real-time one where that is allowed, else as nice as
// possible, else as it is. For work that somebody waits for and that takes little of the processor.
class Urgently {
 public:
  Urgently();
  ~Urgently();
  Urgently(const Urgently&) = delete;
  Urgently& operator=(const Urgently&) = delete;

 private:
  Unpreempted unpreempted_;
  bool niced_ = false;
  int nice_ = 0;
};

}  // namespace mose
