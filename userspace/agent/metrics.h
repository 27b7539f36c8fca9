// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "agent/core.h"
#include "agent/migration_service.h"

// What an agent tells Prometheus of itself: docs/metrics.md has the names. Counters begin at 0 with each start.
namespace mose::agent {

struct MetricsSnapshot {
  std::string version, node;
  ServiceFigures service;
  std::array<uint64_t, static_cast<size_t>(WorkloadState::waiting) + 1> workloads{};  // by state
  std::optional<double> certificate_left_s;                                           // negative: it has expired; nothing: plain text
  uint64_t resident_bytes = 0, open_descriptors = 0;
  double processor_s = 0;
};

// Loop thread; does not block.
[[nodiscard]] MetricsSnapshot take_metrics(const Core& core, const MigrationService& service);
[[nodiscard]] std::string format_metrics(const MetricsSnapshot& snapshot);

// Whether this node can take part in migrations. What is undecided does not make it unready, but is told.
struct Readiness {
  bool ready = false;
  std::string text;  // a line for each part
};
[[nodiscard]] Readiness readiness_of(const ServiceFigures& service, bool ending);

}  // namespace mose::agent
