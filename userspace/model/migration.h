// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace mose {

// 128 random bits that name one migration on both nodes, in journals, on the wire and in reports.
struct MigrationId {
  std::array<uint8_t, 16> bytes{};

  static MigrationId random();
  static Result<MigrationId> parse(std::string_view hex);
  [[nodiscard]] std::string hex() const;
  bool operator==(const MigrationId&) const = default;
  auto operator<=>(const MigrationId&) const = default;
};

enum class Strategy : uint8_t { automatic, cold, precopy, postcopy, hybrid };
[[nodiscard]] Result<Strategy> parse_strategy(std::string_view text);
[[nodiscard]] std::string_view to_string(Strategy strategy);
// --auto-converge says something only to strategies that send memory while the workload runs.
[[nodiscard]] Status may_converge(Strategy strategy);

// Where stragglers are redirected: at TC alone, or at XDP before it. Automatic: where the node's uplink has it.
enum class SteerLayer : uint8_t { automatic, tc, xdp };
[[nodiscard]] Result<SteerLayer> parse_steer_layer(std::string_view text);
[[nodiscard]] std::string_view to_string(SteerLayer layer);

// How written pages are found. Automatic: the cheapest that the host has. Early write protection is armed in every round,
// whatever a fault costs here. The names that reports use for what was at work ("write-protection", "hash-scan") are
// understood as well.
enum class Tracker : uint8_t { automatic, write_protection, write_protection_early, hash, soft_dirty };
inline constexpr std::array kTrackers = {Tracker::automatic, Tracker::write_protection, Tracker::write_protection_early,
                                         Tracker::hash, Tracker::soft_dirty};
[[nodiscard]] Result<Tracker> parse_tracker(std::string_view text);
[[nodiscard]] std::string_view to_string(Tracker tracker);

enum class Role : uint8_t { source, destination };
[[nodiscard]] std::string_view to_string(Role role);

// How a migration ended; also the exit code of `mose migrate`.
enum class Outcome : uint8_t {
  complete,             // 0
  failed,               // 1: the source still runs
  refused,              // 3: nothing was touched
  failed_after_commit,  // 4
  cancelled,            // 5: the source still runs
  unknown,              // 6: agent unreachable, or undecided until both journals meet
  target_missed,        // 7
  lost,                 // 4: committed, and the workload has ended before its memory was complete
};
inline constexpr size_t kOutcomes = static_cast<size_t>(Outcome::lost) + 1;
[[nodiscard]] std::string_view to_string(Outcome outcome);
[[nodiscard]] int exit_code(Outcome outcome);
inline constexpr int kExitUsage = 2;

// What the operator asked for.
struct MigrationOptions {
  Strategy strategy = Strategy::automatic;
  Nanoseconds max_total{0};        // 0: no bound
  Nanoseconds max_downtime{0};
  uint64_t max_bandwidth_bps = 0;  // 0: unlimited
  unsigned rounds_max = 8;         // pre-copy rounds, at least 1 for strategies that pre-copy
  bool standby = false;            // a warm standby is made during pre-copy
  SteerLayer steer = SteerLayer::automatic;
  Tracker tracker = Tracker::automatic;
  bool auto_converge = false;      // the workload may be slowed down for pre-copy to get ahead of it

  bool operator==(const MigrationOptions&) const = default;
};

}  // namespace mose
