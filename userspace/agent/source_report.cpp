// SPDX-License-Identifier: MIT
// What a migration says of itself at the source: while it goes on, in figures for metrics, and in its report.
#include <fmt/format.h>

#include <algorithm>

#include "agent/source_migration.h"
#include "plan/rounds.h"
#include "plan/strategy.h"

namespace mose::agent {

MigrationProgress SourceMigration::progress() const {
  const plan::SourceState& state = driver_.state();
  MigrationProgress out;
  out.id = meta_.id;
  out.workload = spec_.name;
  out.source = context_.core.config.node.name;
  out.destination = meta_.peer;
  out.role = Role::source;
  out.phase = plan::to_string(state.phase);
  out.round = state.round;
  out.bytes_done = bytes_done_;
  out.bytes_total = prepare_ ? prepare_->memory_bytes : 0;
  out.before_commit = plan::before_commit(state);
  out.elapsed_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now() - started_).count();
  if (tree_is_lost()) {
    out.phase += fmt::format(": {}; `mose status` there says which, and `mose stop {}` there gives them up", lost_tree(), spec_.name);
  } else if (const std::string slow = explain_slow_record(); !slow.empty()) {
    out.phase += ": " + slow;
  } else if (trouble_) {
    out.phase += ": " + trouble_->reason + "; it is tried again";
  }
  if (state.rounds_ended != plan::RoundVerdict::another) out.note = state.strategy_reason;
  else if (state.throttle_percent != 0) out.note = plan::explain_slowdown(state.throttle_percent);
  return out;
}

MigrationFigures SourceMigration::figures() const {
  const plan::SourceState& state = driver_.state();
  const SourceMemory::Totals totals = memory_->totals();
  MigrationFigures out;
  out.progress = progress();
  out.bytes_processed = totals.bytes_sent;
  if (totals.link_bps != 0) out.link_bytes_per_s = static_cast<double>(totals.link_bps) / 8;
  if (state.outlook) out.dirty_bytes_per_s = state.outlook->written_per_second * kPageSize;
  // From the final map on the destination knows what it lacks.
  if (state.map_sent) return out;
  if (state.outlook) {
    out.bytes_remaining = static_cast<uint64_t>(state.outlook->left_now * kPageSize);
  } else if (prepare_ && state.round == 1) {
    out.bytes_remaining = prepare_->memory_bytes - std::min(totals.stream.contents, prepare_->memory_bytes);
  }
  return out;
}

Report SourceMigration::report() const {
  const plan::SourceState& state = driver_.state();
  Report report;
  if (auto theirs = report_from_json(destination_report_)) report = std::move(*theirs);
  report.migration_id = meta_.id.hex();
  report.workload = spec_.name;
  report.source_node = context_.core.config.node.name;
  report.destination_node = meta_.peer;
  report.strategy_requested = to_string(options_.strategy);
  report.strategy = recovered_ ? noted_strategy_ : to_string(state.strategy);
  if (plan::settled(state)) report.outcome = to_string(state.outcome);  // null: nobody knows yet
  report.reason = state.reason;
  report.tls = tls_used_;
  report.steer.layer = host_->at_xdp() ? "xdp" : "tc";
  report.steer.mode = path_.tunnel ? "vxlan" : "l2";
  if (options_.max_bandwidth_bps != 0) report.bulk.bandwidth_max_bps = options_.max_bandwidth_bps;
  report.phases_ms.drain = timeline_.milliseconds("drain");
  add_packets(report);
  // What an agent has measured that died is not known, and the rest would be called the whole.
  if (!recovered_) add_measured(report);
  auto mine = timeline_.finished();
  report.timeline.insert(report.timeline.begin(), mine.begin(), mine.end());
  std::sort(report.timeline.begin(), report.timeline.end(),
            [](const TimelineEntry& a, const TimelineEntry& b) { return a.start_us < b.start_us; });
  return report;
}

void SourceMigration::add_measured(Report& report) const {
  const plan::SourceState& state = driver_.state();
  report.strategy_reason = state.strategy_reason;
  report.total_ms = to_ms(now() - started_);
  auto frozen = timeline_.start_us("hold");
  if (frozen && thawed_seen_at_) report.downtime_ms = static_cast<double>(to_us(*thawed_seen_at_) - *frozen) / 1000.0;
  report.phases_ms.quiesce = timeline_.milliseconds("quiesce");
  report.phases_ms.freeze = timeline_.milliseconds("freeze");
  report.phases_ms.scan = timeline_.milliseconds("scan");
  report.phases_ms.dump = timeline_.milliseconds("dump");
  report.phases_ms.commit = timeline_.milliseconds("commit");
  auto waited = timeline_.milliseconds("restore_wait");
  if (waited && report.phases_ms.restore) report.phases_ms.transfer = std::max(0.0, *waited - *report.phases_ms.restore);
  SourceMemory::Totals totals = memory_->totals();
  report.precopy.rounds = totals.rounds;
  report.precopy.bytes = totals.bytes;
  report.precopy.pages = totals.pages;
  if (totals.rounds != 0) report.precopy.ended = plan::to_string(state.rounds_ended);
  if (state.throttle_percent != 0) {
    report.precopy.throttle_percent = state.throttle_percent;
    if (auto stood_still = host_->throttled()) report.precopy.throttled_ms = to_ms(*stood_still);
  }
  if (totals.link_bps != 0) report.precopy.link_mbit = static_cast<double>(totals.link_bps) / 1e6;
  if (state.outlook) {
    report.precopy.written_mbit = state.outlook->written_per_second * kPageSize * 8 / 1e6;
    report.precopy.forecast_left_pages = state.outlook->left_now;
  }
  if (state.verdict == plan::Verdict::commit && state.map_sent) {
    report.lazy.pages_at_commit = plan::memory_first(state.strategy) ? 0 : state.pages_left;
  }
  report.lazy.pages_at_commit_max = plan::pages_left_max(state);
  report.lazy.pages = totals.remote_pages;
  report.bytes_sent = totals.bytes_sent + (connection_ ? connection_->bytes_sent() : 0);
  report.bulk.bytes_uncompressed = totals.stream.contents;
  report.bulk.bytes = totals.stream.wire;
  if (totals.stream.contents != 0) {
    report.bulk.ratio = static_cast<double>(totals.stream.wire) / static_cast<double>(totals.stream.contents);
  }
  report.bulk.frames_raw = totals.stream.frames_raw;
  report.bulk.frames_lz4 = totals.stream.frames_lz4;
  report.bulk.frames_zstd = totals.stream.frames_zstd;
  if (options_.max_bandwidth_bps != 0) report.bulk.capped_ms = to_ms(totals.capped);
  SourceMemory::Tracking tracking = memory_->tracking();
  report.tracking.source = std::move(tracking.source);
  report.tracking.reason = std::move(tracking.reason);
  if (options_.tracker != Tracker::automatic) {
    report.tracking.reason = fmt::format("asked for {}; {}", to_string(options_.tracker), report.tracking.reason);
  }
  memory_->writes().fill(report);
  report.standby.pause_ms = timeline_.milliseconds("standby_pause");
  if (!report.standby.used) report.standby.used = false;
  if (!*report.standby.used && report.standby.reason.empty()) report.standby.reason = standby_reason();
}

// To what the destination has told of them. Both have seen the thaw, which is how the clocks of two machines are compared.
void SourceMigration::add_packets(Report& report) const {
  const PacketCounts theirs = report.packets;
  PacketCounts& all = report.packets = host_->packets();
  if (theirs.dropped.value_or(0) != 0) all.dropped = all.dropped.value_or(0) + *theirs.dropped;
  all.first_out_us = theirs.first_out_us;
  // An agent that has been restarted sees COMMITTED a second time, long after the thaw.
  if (recovered_ || !all.last_out_us || !all.first_out_us || !thawed_seen_at_ || !thawed_there_us_) return;
  const int64_t here = to_us(*thawed_seen_at_) - *all.last_out_us;
  const int64_t there = *all.first_out_us - *thawed_there_us_;
  all.silence_ms = static_cast<double>(here + there) / 1000.0;
}

std::string SourceMigration::report_json() const { return to_json(report()); }

}  // namespace mose::agent
