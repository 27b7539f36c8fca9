// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/dirty_source.h"
#include "model/page_heat.h"
#include "model/report.h"
#include "plan/dirty_model.h"
#include "sense/fault_monitor.h"

namespace mose::agent {

// What a workload writes while it is pre-copied: a forecast of every round, checked against what came; where the host
// can, also who writes and which pages most often. Nothing depends on it.
//
// Life: attach() before the first round, beside which it goes on; per round begin_round(), sent() and sample() after each
// frame, end_round(); stopped() once the final map is out; end() when nobody writes any more. One thread at a time.
class WriteWatch {
 public:
  ~WriteWatch();

  // Loading the programs takes 70 ms, mostly libbpf reading the kernel's types: on a thread of its own.
  void attach(std::string cgroup);
  // Learns the heat from the rounds before: not at their end, because after the last one nothing may keep the freeze
  // waiting.
  void begin_round();
  // Pages that have left in the round under way: those of a later round than the first were written since.
  void sent(SpaceId space, std::span<const PageRun> runs);
  // Which pages were written most often, by the rounds that found them written, so that it is known without tracepoints
  // too, and by the write faults seen. From begin_round() to the next one; empty before there is anything to say.
  [[nodiscard]] const std::vector<SpaceHeat>& heat() const { return heat_; }
  // Counts the writes since the round's pages were protected, at doubling times: the curve of one window.
  void sample();
  // `tracked`: its pages were protected, so that each written page is a fault.
  void end_round(unsigned round, Timestamp start, Timestamp end, uint64_t pages, uint64_t present, bool tracked);
  // After it: what another round would leave.
  [[nodiscard]] std::optional<plan::Outlook> outlook(Nanoseconds duration, uint64_t link_bps, Nanoseconds scan) const {
    return forecaster_.outlook(duration, link_bps, scan);
  }
  // Everything stood still at `at`; `pages` had to be sent again. Fits nothing: the workload is stopped.
  void stopped(Timestamp at, uint64_t pages);
  // Of the map's remote pages those that were written most often, for who sends them first. A read of the whole table:
  // only where there is much to send.
  void mark_hot(FinalPages& pages);
  void end();

  // For the report. What the host cannot say is absent, with the reason.
  void fill(Report& report) const;

 private:
  [[nodiscard]] const sense::FaultMonitor* monitor();
  void count_processes();
  void learn_heat();

  mutable std::mutex mutex_;
  std::optional<sense::FaultMonitor> monitor_;  // under mutex_ until it is there
  std::string why_not_ = "no memory was sent while the workload ran";
  std::jthread attaching_;

  plan::RoundForecaster forecaster_;
  struct Curve {
    Timestamp start{};
    uint64_t base = 0;
    Nanoseconds next{0};
    std::vector<std::pair<Nanoseconds, uint64_t>> points;
  };
  std::optional<Curve> curve_;
  Timestamp attached_{};

  unsigned rounds_begun_ = 0;
  std::map<SpaceId, std::vector<PageRun>> sent_;  // in the round under way, from the second on
  size_t sent_runs_ = 0;
  std::map<SpaceId, PageHeat> found_written_;
  std::vector<SpaceHeat> heat_;

  // What fill() reads, under mutex_.
  std::vector<plan::ForecastCheck> checks_;
  std::string form_;
  std::optional<uint64_t> events_, lost_;
  std::vector<ProcessWrites> processes_;
};

}  // namespace mose::agent
