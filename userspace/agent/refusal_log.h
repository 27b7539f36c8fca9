// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "agent/event_loop.h"
#include "base/clock.h"

namespace mose::agent {

// Why a connection of another node, or of a stranger, was not taken.
enum class RefusalKind : uint8_t {
  silent,     // said no HELLO in time
  crowded,    // made room for newer ones
  handshake,  // no TLS, or a certificate that is not believed
  hello,      // what it said is no HELLO
  identity,   // calls itself by a name that its certificate does not have
  version,    // speaks, or can do, something else than this node
  access,     // is not known here, or may not do what it asks for
  local,      // this node could not take it
};
inline constexpr size_t kRefusalKinds = static_cast<size_t>(RefusalKind::local) + 1;
[[nodiscard]] const char* to_string(RefusalKind kind);
using RefusalCounts = std::array<uint64_t, kRefusalKinds>;

// Counts who was refused, says why, and keeps a flood of them from filling the disk: kLinesMax lines in each kWindow, then
// one line with how many more there were. Loop thread.
class RefusalLog {
 public:
  static constexpr Nanoseconds kWindow = std::chrono::seconds(10);
  static constexpr unsigned kLinesMax = 10;

  // `counts`: of all that count together; borrowed.
  RefusalLog(EventLoop& loop, RefusalCounts& counts) : loop_(loop), counts_(counts) {}
  ~RefusalLog() { loop_.cancel(timer_); }
  RefusalLog(const RefusalLog&) = delete;
  RefusalLog& operator=(const RefusalLog&) = delete;

  // `node` is what the peer calls itself, or empty.
  void add(RefusalKind kind, const std::string& sentence, const std::string& peer, const std::string& node, const std::string& reason);

 private:
  void end_window();

  EventLoop& loop_;
  RefusalCounts& counts_;
  EventLoop::TimerId timer_ = 0;
  uint64_t count_ = 0;  // in this window
};

}  // namespace mose::agent
