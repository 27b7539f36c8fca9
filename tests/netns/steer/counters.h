// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"

// What TCP itself noticed in one network namespace: a handover that TCP does not notice leaves all of them alone.
namespace mose::test {

struct TcpCounters {
  uint64_t timeouts = 0;       // retransmission time-outs
  uint64_t loss_probes = 0;    // tail-loss probes
  uint64_t retransmitted = 0;  // segments, probes included
  uint64_t syn_retries = 0;
  uint64_t resets_sent = 0, resets_received = 0;
  uint64_t listen_drops = 0;

  [[nodiscard]] TcpCounters since(const TcpCounters& earlier) const;
  [[nodiscard]] uint64_t retransmitted_beside_probes() const {
    return retransmitted > loss_probes ? retransmitted - loss_probes : 0;
  }
  [[nodiscard]] std::string text() const;
};

[[nodiscard]] TcpCounters tcp_counters(const Fd& netns);

}  // namespace mose::test
