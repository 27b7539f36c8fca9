// SPDX-License-Identifier: MIT
#include "base/units.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <span>

namespace mose {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

Result<double> parse_quantity(std::string_view text, std::span<const Unit> units, std::string_view kind) {
  double number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) {
    return fail(fmt::format("\"{}\" is not a {}", text, kind));
  }
  std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  std::string known;
  for (const Unit& u : units) {
    if (u.name == unit) {
      double value = number * u.factor;
      if (value > 9e18) return fail(fmt::format("\"{}\" is too large for a {}", text, kind));
      return value;
    }
    known += known.empty() ? "" : ", ";
    known += u.name;
  }
  return fail(fmt::format("\"{}\" is not a {}: the unit must be one of {}", text, kind, known));
}

}  // namespace

Result<Nanoseconds> parse_duration(std::string_view text) {
  static constexpr Unit kUnits[] = {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}};
  MOSE_ASSIGN(double value, parse_quantity(text, kUnits, "duration"));
  return Nanoseconds(static_cast<int64_t>(value));
}

Result<uint64_t> parse_bytes(std::string_view text) {
  static constexpr Unit kUnits[] = {{"B", 1},          {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
                                    {"TiB", 0x1p40}, {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9}};
  MOSE_ASSIGN(double value, parse_quantity(text, kUnits, "size"));
  return static_cast<uint64_t>(value);
}

Result<uint64_t> parse_bandwidth(std::string_view text) {
  static constexpr Unit kUnits[] = {{"bit", 1}, {"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}};
  MOSE_ASSIGN(double value, parse_quantity(text, kUnits, "bandwidth"));
  return static_cast<uint64_t>(value);
}

std::string format_bytes(uint64_t bytes) {
  static constexpr std::string_view kNames[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t i = 0;
  while (value >= 1024 && i + 1 < std::size(kNames)) {
    value /= 1024;
    ++i;
  }
  return i == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kNames[i]);
}

}  // namespace mose
