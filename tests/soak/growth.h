// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

// Whether anything grows with the number of moves. Single readings jump: a migration that is ending, a heap that has just been trimmed.
// So each place's readings are taken where the same has just happened to it, and the median of the first ones after a warm-up is held
// against that of the last ones: what leaks is in every one of the last, what happens now and then in none of the medians.
namespace mose::test {

// By name; "... bytes" are bytes, everything else is counted.
using Gauges = std::map<std::string, double>;

struct Growth {
  std::string place, thing;
  double first = 0, last = 0;  // medians
  double allowed = 0;          // of `last` above `first`
  [[nodiscard]] bool grows() const { return last > first + allowed; }
};

class GrowthLog {
 public:
  // One reading of a place ("a, with the workload"). A thing that is missing in it is 0 there.
  void add(const std::string& place, Gauges gauges) { readings_[place].push_back(std::move(gauges)); }

  static constexpr size_t kWindow = 20;     // readings of a median
  static constexpr size_t kWindowMin = 5;   // fewer say nothing
  // Everything of every place that has enough readings after the first `warm` of them.
  [[nodiscard]] std::vector<Growth> judge(size_t warm) const;

 private:
  std::map<std::string, std::vector<Gauges>> readings_;
};

// A table for people: what has changed, and all memory.
[[nodiscard]] std::string growth_table(const std::vector<Growth>& all);

// "b, without the workload: mosed descriptors, from 41 to 53 (1 is allowed)"
[[nodiscard]] std::string to_string(const Growth& growth);

}  // namespace mose::test
