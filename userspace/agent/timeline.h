// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "model/report.h"

namespace mose::agent {

// When each phase of a migration began and ended on this node. Thread-safe: lanes and the loop write to one.
class Timeline {
 public:
  explicit Timeline(std::string node) : node_(std::move(node)) {}

  void begin(const std::string& phase) {
    std::lock_guard lock(mutex_);
    entries_.push_back({node_, phase, to_us(now()), 0});
  }
  // Ends the latest phase of that name that is still open.
  void end(const std::string& phase) {
    std::lock_guard lock(mutex_);
    auto it = std::find_if(entries_.rbegin(), entries_.rend(),
                           [&](const TimelineEntry& e) { return e.phase == phase && e.end_us == 0; });
    if (it != entries_.rend()) it->end_us = to_us(now());
  }
  [[nodiscard]] std::vector<TimelineEntry> finished() const {
    std::lock_guard lock(mutex_);
    std::vector<TimelineEntry> out;
    for (const TimelineEntry& entry : entries_) {
      if (entry.end_us != 0) out.push_back(entry);
    }
    return out;
  }
  // Duration of the last finished phase of that name.
  [[nodiscard]] std::optional<double> milliseconds(const std::string& phase) const {
    std::lock_guard lock(mutex_);
    for (auto it = entries_.rbegin(); it != entries_.rend(); ++it) {
      if (it->phase == phase && it->end_us != 0) return static_cast<double>(it->end_us - it->start_us) / 1000.0;
    }
    return {};
  }
  // Of the last one of that name.
  [[nodiscard]] std::optional<int64_t> start_us(const std::string& phase) const {
    std::lock_guard lock(mutex_);
    for (auto it = entries_.rbegin(); it != entries_.rend(); ++it) {
      if (it->phase == phase) return it->start_us;
    }
    return {};
  }

  // Begins a phase and ends it when the scope is left, whatever the result.
  class Span {
   public:
    Span(Timeline& timeline, std::string phase) : timeline_(timeline), phase_(std::move(phase)) { timeline_.begin(phase_); }
    ~Span() { timeline_.end(phase_); }
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    Timeline& timeline_;
    std::string phase_;
  };

 private:
  mutable std::mutex mutex_;
  std::string node_;
  std::vector<TimelineEntry> entries_;
};

}  // namespace mose::agent
