// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>

#include "agent/metrics_text.h"
#include "agent/migration_service.h"

namespace mose::agent {

// How the migrations of this agent's life have ended. Times are of the source, which alone knows the whole of them.
class MigrationTally {
 public:
  MigrationTally();

  void add(const MigrationEnd& end);
  [[nodiscard]] uint64_t ended(Role role, Outcome outcome) const { return ended_[static_cast<size_t>(role)][static_cast<size_t>(outcome)]; }
  // Seconds. `silence`: from the last frame of the workload at the source to the first at the destination.
  [[nodiscard]] const MetricHistogram& downtime() const { return downtime_; }
  [[nodiscard]] const MetricHistogram& silence() const { return silence_; }
  [[nodiscard]] const MetricHistogram& standby_pause() const { return standby_pause_; }
  [[nodiscard]] const MetricHistogram& total() const { return total_; }  // of those that were complete
  // Write faults that the watching programs had no room for, or missed.
  [[nodiscard]] uint64_t fault_events_lost() const { return fault_events_lost_; }

 private:
  static constexpr size_t kRoles = static_cast<size_t>(Role::destination) + 1;
  std::array<std::array<uint64_t, kOutcomes>, kRoles> ended_{};
  MetricHistogram downtime_, silence_, standby_pause_, total_;
  uint64_t fault_events_lost_ = 0;
};

}  // namespace mose::agent
