// SPDX-License-Identifier: MIT
#include "agent/write_watch.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <map>

#include "base/log.h"
#include "kernel/probe.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kFirstSample = std::chrono::milliseconds(10);
constexpr size_t kProcessesMax = 16;  // in a report
// Below that the pages are out before a look at the table would have ended.
constexpr uint64_t kOrderPagesMin = 512;
// Of one round, for its heat: 4 MiB. What comes after them counts as cold.
constexpr size_t kSentRunsMax = size_t{1} << 18;

// Pages with the epochs in which they had write faults, by space, ascending.
std::map<SpaceId, std::vector<PageHeat::Stretch>> fault_history(std::vector<sense::RegionFaults> regions) {
  std::ranges::sort(regions, {}, [](const sense::RegionFaults& region) { return region.pages.first; });
  std::map<SpaceId, std::vector<PageHeat::Stretch>> out;
  for (const sense::RegionFaults& region : regions) {
    auto& stretches = out[region.space];
    // Two processes that an exec or a reused number has given the same name: the first one counts.
    if (!stretches.empty() && region.pages.first < stretches.back().pages.end()) continue;
    for (uint64_t i = 0; i < region.pages.count && i < region.history.size(); ++i) {
      if (region.history[i] != 0) stretches.push_back({{region.pages.first + i, 1}, region.history[i]});
    }
  }
  return out;
}

uint64_t remote_pages(const FinalPages& pages) {
  uint64_t sum = 0;
  for (const SpacePages& space : pages.spaces) sum += space.remote.pages();
  return sum;
}

}  // namespace

WriteWatch::~WriteWatch() {
  if (attaching_.joinable()) attaching_.join();  // before what it writes to
}

void WriteWatch::attach(std::string cgroup) {
  if (attaching_.joinable()) return;
  for (const char* needed : {"btf", "page-fault-tracepoints"}) {
    ProbeResult found = probe(needed);
    if (found.state == ProbeState::yes) continue;
    std::lock_guard lock(mutex_);
    why_not_ = std::string(needed) + ": " + found.detail;
    return;
  }
  {
    std::lock_guard lock(mutex_);
    why_not_ = "the programs were not loaded in time";
  }
  attaching_ = std::jthread(log::carried([this, cgroup = std::move(cgroup)] {
    auto monitor = sense::FaultMonitor::attach(cgroup);
    if (!monitor) log::warn("write faults are not watched", {{"reason", monitor.error().what}});
    std::lock_guard lock(mutex_);
    if (!monitor) {
      why_not_ = monitor.error().what;
      return;
    }
    attached_ = now();
    form_ = monitor->form();
    monitor_.emplace(std::move(*monitor));
  }));
}

const sense::FaultMonitor* WriteWatch::monitor() {
  std::lock_guard lock(mutex_);
  return monitor_ ? &*monitor_ : nullptr;
}

void WriteWatch::begin_round() {
  curve_.reset();
  // The second round is the first that sends what was written.
  if (++rounds_begun_ > 1) learn_heat();
  std::lock_guard lock(mutex_);
  if (monitor_) monitor_->next_epoch();
}

void WriteWatch::sent(SpaceId space, std::span<const PageRun> runs) {
  if (rounds_begun_ < 2 || sent_runs_ + runs.size() > kSentRunsMax) return;
  sent_runs_ += runs.size();
  auto& all = sent_[space];
  all.insert(all.end(), runs.begin(), runs.end());
}

void WriteWatch::learn_heat() {
  // Also spaces of which nothing was sent: they cool down.
  for (auto& [space, runs] : sent_) found_written_.try_emplace(space);
  for (auto& [space, heat] : found_written_) heat.next_round(PageSet::from_runs(std::move(sent_[space])));
  sent_.clear();
  sent_runs_ = 0;
  std::map<SpaceId, std::vector<PageHeat::Stretch>> faults;
  if (const sense::FaultMonitor* watching = monitor()) {
    if (auto snapshot = watching->snapshot()) faults = fault_history(std::move(snapshot->regions));
  }
  for (const auto& [space, seen] : faults) found_written_.try_emplace(space);
  heat_.clear();
  for (const auto& [space, heat] : found_written_) {
    if (auto levels = heat.levels(faults[space]); !levels.empty()) heat_.push_back({space, std::move(levels)});
  }
}

void WriteWatch::sample() {
  const sense::FaultMonitor* watching = monitor();
  const Timestamp at = now();
  if (watching == nullptr || (curve_ && at - curve_->start < curve_->next)) return;
  auto totals = watching->totals();
  if (!totals) return;
  if (!curve_) {
    curve_ = Curve{.start = at, .base = totals->faults, .next = kFirstSample};
    return;
  }
  curve_->points.emplace_back(at - curve_->start, totals->faults - curve_->base);
  curve_->next = 2 * (at - curve_->start);
}

void WriteWatch::end_round(unsigned round, Timestamp start, Timestamp end, uint64_t pages, uint64_t present,
                           bool tracked) {
  forecaster_.round(round, start, end, pages, present);
  if (tracked && curve_) {
    for (const auto& [window, written] : curve_->points) forecaster_.observe(window, written);
  }
  curve_.reset();
  forecaster_.fit();
  count_processes();
}

void WriteWatch::stopped(Timestamp at, uint64_t pages) {
  forecaster_.stopped(at, pages);
  count_processes();
}

void WriteWatch::count_processes() {
  std::vector<ProcessWrites> processes;
  std::optional<uint64_t> events, lost;
  if (const sense::FaultMonitor* watching = monitor()) {
    auto snapshot = watching->snapshot(sense::FaultMonitor::Tables::without_regions);
    if (snapshot) {
      std::map<SpaceId, uint64_t> threads;
      for (const sense::ThreadFaults& thread : snapshot->threads) ++threads[thread.space];
      const double seconds = to_ms(now() - attached_) / 1000;
      for (const sense::ProcessFaults& process : snapshot->processes) {
        if (processes.size() == kProcessesMax) break;
        processes.push_back({.process = process.space,
                             .threads = threads[process.space],
                             .write_faults = process.faults(),
                             .write_faults_per_s = static_cast<double>(process.faults()) / std::max(seconds, 1e-3)});
      }
      events = snapshot->totals.faults;
      lost = snapshot->totals.missed + snapshot->totals.lost_regions;
    }
  }
  std::lock_guard lock(mutex_);
  checks_ = forecaster_.checks();
  if (!events) return;
  events_ = events;
  lost_ = lost;
  processes_ = std::move(processes);
}

void WriteWatch::mark_hot(FinalPages& pages) {
  const sense::FaultMonitor* watching = monitor();
  if (watching == nullptr || remote_pages(pages) < kOrderPagesMin) return;
  auto snapshot = watching->snapshot();
  if (!snapshot) return;
  for (SpacePages& space : pages.spaces) {
    // By the number of rounds in which a page was written: eight sets at most.
    std::map<int, PageSet, std::greater<>> by_rounds;
    for (const sense::RegionFaults& region : snapshot->regions) {
      if (region.space != space.space) continue;
      for (uint64_t i = 0; i < region.pages.count; ++i) {
        if (int rounds = std::popcount(region.history[i]); rounds != 0)
          by_rounds[rounds].add({region.pages.first + i, 1});
      }
    }
    for (const auto& [rounds, written] : by_rounds) {
      if (PageSet hot = written.intersect(space.remote); !hot.empty()) space.hot.push_back(std::move(hot));
    }
  }
}

void WriteWatch::end() {
  if (attaching_.joinable()) attaching_.join();
  std::lock_guard lock(mutex_);
  monitor_.reset();
}

void WriteWatch::fill(Report& report) const {
  std::lock_guard lock(mutex_);
  report.precopy.windows.clear();  // of the peer's part, which knows nothing of it
  for (const plan::ForecastCheck& check : checks_) {
    report.precopy.windows.push_back({.round = check.round,
                                      .pages = check.pages,
                                      .window_ms = to_ms(check.window),
                                      .forecast_pages = check.forecast,
                                      .forecast_error = check.error()});
  }
  report.tracking.ebpf = form_;
  if (form_.empty()) report.tracking.ebpf_reason = why_not_;
  report.tracking.ebpf_events = events_;
  report.tracking.ebpf_lost = lost_;
  report.tracking.processes = processes_;
}

}  // namespace mose::agent
