// SPDX-License-Identifier: MIT
#include "handover/quiesce.h"

#include <ctime>

namespace mose::handover {
namespace {

// Between two looks: the workload needs the processor, too.
constexpr Nanoseconds kPause = std::chrono::milliseconds(1);

}  // namespace

Result<WaitingConnections> quiesce(const ListenQueues& queues) {
  const Timestamp begun = now();
  for (;;) {
    const Nanoseconds waited = now() - begun;  // before the look that is judged by it
    MOSE_ASSIGN(WaitingConnections waiting, queues.read());
    if (waiting.none() || waited >= (waiting.not_accepted > 0 ? kAcceptMax : kHalfOpenMax)) return waiting;
    timespec pause{.tv_sec = 0, .tv_nsec = kPause.count()};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace mose::handover
