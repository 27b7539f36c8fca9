// SPDX-License-Identifier: MIT
#include "model/migration.h"

#include <fmt/format.h>
#include <sys/random.h>

#include "base/check.h"

namespace mose {

MigrationId MigrationId::random() {
  MigrationId id;
  ssize_t n = getrandom(id.bytes.data(), id.bytes.size(), 0);
  MOSE_CHECK(n == static_cast<ssize_t>(id.bytes.size()), "the kernel gives 16 random bytes without blocking after boot");
  return id;
}

Result<MigrationId> MigrationId::parse(std::string_view hex) {
  MigrationId id;
  auto nibble = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  if (hex.size() != 2 * id.bytes.size()) return fail(fmt::format("\"{}\" is not a migration id (32 hex digits)", hex));
  for (size_t i = 0; i < id.bytes.size(); ++i) {
    int high = nibble(hex[2 * i]);
    int low = nibble(hex[2 * i + 1]);
    if (high < 0 || low < 0) return fail(fmt::format("\"{}\" is not a migration id (32 hex digits)", hex));
    id.bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return id;
}

std::string MigrationId::hex() const {
  std::string text;
  for (uint8_t byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

Result<Strategy> parse_strategy(std::string_view text) {
  for (Strategy s : {Strategy::automatic, Strategy::cold, Strategy::precopy, Strategy::postcopy, Strategy::hybrid}) {
    if (to_string(s) == text) return s;
  }
  return fail(fmt::format("\"{}\" is not a strategy: auto, cold, precopy, postcopy or hybrid", text));
}

std::string_view to_string(Strategy strategy) {
  switch (strategy) {
    case Strategy::automatic:
      return "auto";
    case Strategy::cold:
      return "cold";
    case Strategy::precopy:
      return "precopy";
    case Strategy::postcopy:
      return "postcopy";
    case Strategy::hybrid:
      return "hybrid";
  }
  return "?";
}

Status may_converge(Strategy strategy) {
  if (strategy != Strategy::cold && strategy != Strategy::postcopy) return {};
  return fail(fmt::format("strategy {} sends nothing while the workload runs, so that slowing it down gains nothing: leave "
                          "--auto-converge out",
                          to_string(strategy)));
}

Result<Tracker> parse_tracker(std::string_view text) {
  for (Tracker t : kTrackers) {
    if (to_string(t) == text) return t;
  }
  if (text == "write-protection") return Tracker::write_protection;
  if (text == "hash-scan") return Tracker::hash;
  return fail(fmt::format("\"{}\" is no way to find written pages: auto, wp, wp-early, hash or soft-dirty", text));
}

std::string_view to_string(Tracker tracker) {
  switch (tracker) {
    case Tracker::automatic:
      return "auto";
    case Tracker::write_protection:
      return "wp";
    case Tracker::write_protection_early:
      return "wp-early";
    case Tracker::hash:
      return "hash";
    case Tracker::soft_dirty:
      return "soft-dirty";
  }
  return "?";
}

Result<SteerLayer> parse_steer_layer(std::string_view text) {
  for (SteerLayer l : {SteerLayer::automatic, SteerLayer::tc, SteerLayer::xdp}) {
    if (to_string(l) == text) return l;
  }
  return fail(fmt::format("\"{}\" is no place to redirect at: auto, tc or xdp", text));
}

std::string_view to_string(SteerLayer layer) {
  switch (layer) {
    case SteerLayer::automatic:
      return "auto";
    case SteerLayer::tc:
      return "tc";
    case SteerLayer::xdp:
      return "xdp";
  }
  return "?";
}

std::string_view to_string(Role role) { return role == Role::source ? "source" : "destination"; }

std::string_view to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::complete:
      return "complete";
    case Outcome::failed:
      return "failed";
    case Outcome::refused:
      return "refused";
    case Outcome::failed_after_commit:
      return "failed_after_commit";
    case Outcome::cancelled:
      return "cancelled";
    case Outcome::unknown:
      return "unknown";
    case Outcome::target_missed:
      return "target_missed";
    case Outcome::lost:
      return "lost";
  }
  return "?";
}

int exit_code(Outcome outcome) {
  switch (outcome) {
    case Outcome::complete:
      return 0;
    case Outcome::failed:
      return 1;
    case Outcome::refused:
      return 3;
    case Outcome::failed_after_commit:
    case Outcome::lost:
      return 4;
    case Outcome::cancelled:
      return 5;
    case Outcome::unknown:
      return 6;
    case Outcome::target_missed:
      return 7;
  }
  return 1;
}

}  // namespace mose
