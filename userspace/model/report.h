// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/migration.h"

namespace mose {

// One phase of a migration on one node. Times are CLOCK_MONOTONIC microseconds of that node's machine.
struct TimelineEntry {
  std::string node;
  std::string phase;
  int64_t start_us = 0;
  int64_t end_us = 0;
};

// Durations in milliseconds; absent when the phase did not happen or could not be measured. Never 0 for unknown.
struct PhaseTimes {
  std::optional<double> quiesce, freeze, scan, dump, transfer, restore, commit, drain;
};

// What was dirty when a window of pre-copy ended, beside what had been forecast. A window is from the middle of one
// round to that of the next, or to the freeze (round: the last one + 1).
struct DirtyWindow {
  std::optional<uint64_t> round, pages;
  std::optional<double> window_ms, forecast_pages, forecast_error;  // error: (forecast - pages) / pages
};

// Write faults of one process, by its number in its own pid namespace, while its memory was sent.
struct ProcessWrites {
  std::optional<uint64_t> process, threads, write_faults;  // threads that wrote
  std::optional<double> write_faults_per_s;
};

struct PacketCounts {
  std::optional<uint64_t> held, drained, redirected, dropped, overflow;
  std::optional<uint64_t> half_open;  // connections that were begun and not finished when everything was held: not moved
  // Stamps of the kernel, CLOCK_MONOTONIC microseconds of each node's machine: the workload's last frame that left the
  // source before it was stopped, and the first that left the destination, which was held there until then.
  std::optional<int64_t> last_out_us, first_out_us;
  std::optional<double> silence_ms;  // between those two; on two machines too long by one way of the link
};

// What the control connection of a migration was protected by.
struct TlsUsed {
  std::string version, cipher;  // "TLSv1.3", "TLS_AES_128_GCM_SHA256"
  std::string peer;             // names in the certificate of the other node
};

// What one migration did, as `mose migrate --json`, `history` and the run object of design.md 9 give it (without the
// client's figures). Filled while it runs by the agents, finished once, then immutable.
struct Report {
  std::string migration_id, workload, source_node, destination_node;
  std::string strategy_requested, strategy, strategy_reason, outcome,
      reason;                                   // strategy_reason: why that one, and how its rounds ended
  std::optional<double> downtime_ms, total_ms;  // downtime: freeze at the source to thaw at the destination
  std::optional<TlsUsed> tls;  // of the end that tells; nothing: plain text, or the other node was never reached
  PhaseTimes phases_ms;
  std::vector<TimelineEntry> timeline;
  struct {
    std::optional<uint64_t> rounds, bytes, pages;
    std::string ended;  // plan::RoundVerdict
    // What the link carried, what was written, and how much would be left, as known at the end of the last round.
    std::optional<double> link_mbit, written_mbit, forecast_left_pages;
    std::optional<uint64_t> throttle_percent;  // by which the workload was slowed down at the most
    std::optional<double> throttled_ms;        // for which it stood still for that
    std::vector<DirtyWindow> windows;
  } precopy;
  struct {
    std::optional<uint64_t> pages, faults;
    std::optional<uint64_t> pages_at_commit, pages_at_commit_max;  // still at the source, and how many might be
    std::optional<double> fault_p50_us, fault_p99_us, complete_ms;
  } lazy;
  struct {
    std::string source, reason;  // "hash-scan" and why it was chosen
    std::string ebpf, ebpf_reason;  // kind of the programs that watched write faults, or why none did
    std::optional<uint64_t> ebpf_events, ebpf_lost;  // write faults; those that found no room or were missed
    std::vector<ProcessWrites> processes;            // most faults first
  } tracking;
  struct {
    std::optional<bool> used;                   // the switchover went on with a tree built ahead
    std::string reason;                         // why not
    std::optional<double> pause_ms, refresh_ms;  // the earlier pause, for its dump; bringing it up to date
  } standby;
  struct {
    std::string layer, mode;  // "tc", "l2"
  } steer;
  std::optional<uint64_t> bytes_sent;
  // What was pushed without being asked for: pages as they are and as they travelled, how (frames), and the time that
  // only the bandwidth cap took.
  struct {
    std::optional<uint64_t> bytes_uncompressed, bytes, frames_raw, frames_lz4, frames_zstd, bandwidth_max_bps;
    std::optional<double> ratio, capped_ms;  // bytes / bytes_uncompressed
  } bulk;
  PacketCounts packets;
};

// The JSON text of the run object (one line without a line end).
[[nodiscard]] std::string to_json(const Report& report);
[[nodiscard]] Result<Report> report_from_json(std::string_view text);

}  // namespace mose
