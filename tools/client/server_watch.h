// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "client/interruption.h"
#include "client/tcp_counters.h"

// The server seen from outside while the load runs: what its process costs in CPU time and what TCP counts in its
// network namespace. The client does this, because it alone knows how many requests were answered at that moment.
//
// Life: watch() its process, sample() every some milliseconds, begin() with the window; watch() the process that has
// taken over after a move, then tcp(). A process that cannot be read leaves out what it would have told.
namespace mose::client {

class ServerWatch {
 public:
  // 0: nothing. The network namespace of a further process of the same window counts from its making: it is new.
  void watch(pid_t pid);
  void sample(int64_t now_ns, uint64_t answers);
  void begin(int64_t now_ns, uint64_t answers);

  // CPU time (user and system, all threads) per answer within the span; absent without two samples and an answer in it.
  // Where the server moved within the span: of the last process.
  [[nodiscard]] std::optional<double> cpu_us_per_answer(Window span) const;
  // Since begin(), of both namespaces.
  [[nodiscard]] std::optional<TcpCounters> tcp() const;

 private:
  struct Sample {
    int64_t at_ns;
    uint64_t cpu_ns, answers;
    pid_t pid;
  };
  pid_t pid_ = 0;
  std::vector<Sample> samples_;
  std::optional<TcpCounters> base_, last_, former_;  // former: of the process before, as it was at the end
  bool moved_ = false;
};

}  // namespace mose::client
