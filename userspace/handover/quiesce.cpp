// SPDX-License-Identifier: MIT
#include "handover/quiesce.h"

#include <ctime>

namespace mose::handover {
namespace {

// Between two looks: the workload needs the processor, too.
constexpr Nanoseconds kPause = std::chrono::milliseconds(1);

}  // namespace

Result<WaitingConnections> quiesce(const ListenQueues& queues, Nanoseconds bound) {
  Timestamp deadline = now() + bound;
  for (;;) {
    MOSE_ASSIGN(WaitingConnections waiting, queues.read());
    if (waiting.none() || now() >= deadline) return waiting;
    timespec pause{.tv_sec = 0, .tv_nsec = kPause.count()};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace mose::handover
