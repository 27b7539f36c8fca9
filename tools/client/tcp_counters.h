// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

// What the kernel's TCP counts in one network namespace (/proc/net/snmp and netstat): the judge of a handover that the
// client's own view is not, because a repaired loss only looks like a slow answer.
namespace mose::client {

struct TcpCounters {
  uint64_t timeouts = 0;          // retransmission timers that went off (TcpExt TCPTimeouts)
  uint64_t retransmits = 0;       // segments sent again, for whatever reason (Tcp RetransSegs)
  uint64_t tail_loss_probes = 0;  // TcpExt TCPLossProbes; a probe usually sends a segment again
  uint64_t resets_sent = 0;       // Tcp OutRsts
  uint64_t established_resets =
      0;  // connections that ended without FIN (Tcp EstabResets): by a reset of either side, or
          // without a word when a socket in repair mode is closed, as of a tree that has moved

  TcpCounters operator-(const TcpCounters& o) const {
    return {timeouts - o.timeouts, retransmits - o.retransmits, tail_loss_probes - o.tail_loss_probes,
            resets_sent - o.resets_sent, established_resets - o.established_resets};
  }
  TcpCounters operator+(const TcpCounters& o) const {
    return {timeouts + o.timeouts, retransmits + o.retransmits, tail_loss_probes + o.tail_loss_probes,
            resets_sent + o.resets_sent, established_resets + o.established_resets};
  }
  bool operator==(const TcpCounters&) const = default;
};

// Of the texts of both files; absent when one of the counters is not in them.
[[nodiscard]] std::optional<TcpCounters> parse_tcp_counters(const std::string& snmp, const std::string& netstat);
// Of a process's network namespace; "self" is ours.
[[nodiscard]] std::optional<TcpCounters> read_tcp_counters(const std::string& process);

}  // namespace mose::client
