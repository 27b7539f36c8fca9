// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "client/phases.h"
#include "client/tcp_counters.h"

namespace mose::client {

// What the connections count. Nothing is judged twice: a wrong answer is one of lost, duplicated, reordered or errors.
struct Counts {
  uint64_t requests = 0;
  uint64_t errors = 0;      // error answers, impossible answers, unanswered requests, connections that ended
  uint64_t resets = 0;      // connections that ended by RST or FIN (each is an error too)
  uint64_t lost = 0;        // acknowledged writes that are gone
  uint64_t duplicated = 0;  // answers that came twice, requests that were carried out twice
  uint64_t reordered = 0;   // answers that belong to a later request of their connection
  uint64_t not_sent =
      0;  // requests that were due and could not be made (send buffer full, client late): neither requests nor errors
  uint64_t impossible = 0;  // of the errors: answers that no server with these data gives, and refusals

  Counts operator-(const Counts& o) const {
    return {requests - o.requests, errors - o.errors,           resets - o.resets,      lost - o.lost,
            duplicated - o.duplicated, reordered - o.reordered, not_sent - o.not_sent, impossible - o.impossible};
  }
};

// Figures of one window (one move). Absent: could not be measured.
struct Figures {
  Counts counts;
  std::optional<double> latency_p50_us, latency_p99_us, latency_max_us;
  std::optional<double> service_interruption_ms, interruption_any_ms;
  std::optional<Window> longest_gap;  // of the probes, the one that service_interruption_ms is of
  std::optional<Phase> longest_gap_phase;
  std::optional<double> quiet_gap_p99_ms;  // the worst connection's, to judge the machine by
  uint64_t retransmits = 0;
  Phases phases;                                        // of the load without the probes
  std::optional<TcpCounters> client_tcp, workload_tcp;  // over the window, of their network namespaces
  std::optional<uint64_t> resets_received;              // by the client, on the wire
  uint64_t answers = 0;     // that came in the window: each was judged by what it says
  uint64_t unanswered = 0;  // requests of open connections, among the errors
  bool all_answered = false;  // every connection answered a request that was sent after the window
};

struct Verification {
  uint64_t checked = 0;  // keys and counters that were read back
  uint64_t lost = 0;     // missing, older than acknowledged, or not a value of ours
  bool verified = false; // all were read back and none was lost
  std::string problem;   // why it could not be finished, or the first key that was wrong
};

}  // namespace mose::client
