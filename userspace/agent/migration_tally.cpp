// SPDX-License-Identifier: MIT
#include "agent/migration_tally.h"

#include "model/report.h"

namespace mose::agent {
namespace {

// Around what a move takes (tens of milliseconds) and what a client notices (TCP's shortest time-out is 200 ms).
constexpr double kPauseBounds[] = {0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10};
constexpr double kTotalBounds[] = {0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600};

void add_ms(MetricHistogram& histogram, const std::optional<double>& ms) {
  if (ms) histogram.add(*ms / 1000);
}

}  // namespace

MigrationTally::MigrationTally() : downtime_(kPauseBounds), silence_(kPauseBounds), standby_pause_(kPauseBounds), total_(kTotalBounds) {}

void MigrationTally::add(const MigrationEnd& end) {
  ++ended_[static_cast<size_t>(end.role)][static_cast<size_t>(end.outcome)];
  if (end.role != Role::source) return;
  auto report = report_from_json(end.report_json);
  if (!report) return;
  add_ms(downtime_, report->downtime_ms);
  add_ms(silence_, report->packets.silence_ms);
  add_ms(standby_pause_, report->standby.pause_ms);
  if (end.outcome == Outcome::complete || end.outcome == Outcome::target_missed) add_ms(total_, report->total_ms);
  fault_events_lost_ += report->tracking.ebpf_lost.value_or(0);
}

}  // namespace mose::agent
