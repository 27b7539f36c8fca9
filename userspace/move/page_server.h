// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <stop_token>
#include <vector>

#include "model/dirty_source.h"
#include "move/channel.h"
#include "move/urgent_gate.h"

namespace mose::move {

struct ServeStats {
  std::atomic<uint64_t> requests{0};
  std::atomic<uint64_t> pages{0};
  std::atomic<uint64_t> bytes{0};
};

// Answers REQUEST frames from the memory of the frozen processes. It keeps nothing about the connection or the
// migration: after a restart of the agent a new one with the same list of processes goes on where the old one ended.
class PageServer {
 public:
  // `gate` and `bandwidth` (what is answered is booked there) may be null; borrowed.
  explicit PageServer(std::vector<SpaceProcess> processes, UrgentGate* gate = nullptr, Bandwidth* bandwidth = nullptr);

  // Serves one URGENT connection until the peer closes (success), `stop` is requested (ECANCELED) or something fails.
  // May run in several threads, one connection each.
  [[nodiscard]] Status serve(Channel& channel, const std::stop_token& stop);
  [[nodiscard]] const ServeStats& stats() const { return stats_; }

 private:
  std::vector<SpaceProcess> processes_;
  UrgentGate* gate_;
  Bandwidth* bandwidth_;
  ServeStats stats_;
};

}  // namespace mose::move
