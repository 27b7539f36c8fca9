// SPDX-License-Identifier: MIT
#include "growth.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace mose::test {
namespace {

// A leak of 5 kB a move is seen after two hundred of them, one of 200 bytes after five thousand; a heap breathes by less.
constexpr double kBytesAllowed = 1 << 20, kShareAllowed = 0.05;
// What is there now and then may be there in just more than half of the readings.
constexpr double kCountAllowed = 1;

bool is_bytes(const std::string& thing) { return thing.ends_with("bytes"); }

double median(std::vector<Gauges>::const_iterator from, size_t count, const std::string& thing) {
  std::vector<double> values;
  for (size_t i = 0; i < count; ++i, ++from) {
    auto it = from->find(thing);
    values.push_back(it == from->end() ? 0 : it->second);
  }
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(count / 2), values.end());
  return values[count / 2];
}

std::string shown(const std::string& thing, double value) {
  return is_bytes(thing) ? fmt::format("{:.2f} MiB", value / (1 << 20)) : fmt::format("{:.0f}", value);
}

}  // namespace

std::vector<Growth> GrowthLog::judge(size_t warm) const {
  std::vector<Growth> out;
  for (const auto& [place, readings] : readings_) {
    const size_t left = readings.size() - std::min(warm, readings.size());
    const size_t window = std::min(kWindow, left / 2);
    if (window < kWindowMin) continue;
    std::set<std::string> things;
    for (const Gauges& reading : readings) {
      for (const auto& [thing, value] : reading) things.insert(thing);
    }
    for (const std::string& thing : things) {
      Growth growth{place, thing, median(readings.begin() + static_cast<ptrdiff_t>(warm), window, thing),
                    median(readings.end() - static_cast<ptrdiff_t>(window), window, thing), kCountAllowed};
      if (is_bytes(thing)) growth.allowed = std::max(kBytesAllowed, growth.first * kShareAllowed);
      out.push_back(std::move(growth));
    }
  }
  return out;
}

std::string growth_table(const std::vector<Growth>& all) {
  std::string out = fmt::format("{:<26} {:<34} {:>12} {:>12}\n", "place", "thing", "first", "last");
  size_t same = 0;
  for (const Growth& growth : all) {
    const bool memory = growth.thing.ends_with("resident bytes");
    if (growth.first == growth.last && !memory) {
      ++same;
      continue;
    }
    out += fmt::format("{:<26} {:<34} {:>12} {:>12}{}\n", growth.place, growth.thing, shown(growth.thing, growth.first),
                       shown(growth.thing, growth.last), growth.grows() ? "  GROWS" : "");
  }
  return out + fmt::format("{} more are the same at both ends\n", same);
}

std::string to_string(const Growth& growth) {
  return fmt::format("{}: {}, from {} to {} ({} is allowed)", growth.place, growth.thing, shown(growth.thing, growth.first),
                     shown(growth.thing, growth.last), shown(growth.thing, growth.allowed));
}

}  // namespace mose::test
