// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "agent/event_loop.h"
#include "base/clock.h"

namespace mose::agent {

// Says why strangers were refused, and keeps a flood of them from filling the disk: kLinesMax lines in each kWindow, then
// one line with how many more there were. Loop thread.
class RefusalLog {
 public:
  static constexpr Nanoseconds kWindow = std::chrono::seconds(10);
  static constexpr unsigned kLinesMax = 10;

  explicit RefusalLog(EventLoop& loop) : loop_(loop) {}
  ~RefusalLog() { loop_.cancel(timer_); }
  RefusalLog(const RefusalLog&) = delete;
  RefusalLog& operator=(const RefusalLog&) = delete;

  // `node` is what the peer calls itself, or empty.
  void add(const std::string& sentence, const std::string& peer, const std::string& node, const std::string& reason);

 private:
  void end_window();

  EventLoop& loop_;
  EventLoop::TimerId timer_ = 0;
  uint64_t count_ = 0;  // in this window
};

}  // namespace mose::agent
