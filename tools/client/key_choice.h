// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

// Which key the next request is for.
namespace mose::client {

struct KeyDistribution {
  bool zipf = false;    // false: uniform
  double theta = 0.99;  // the key of rank r is asked for in proportion to 1 / r^theta
};
inline constexpr double kThetaMax = 10;

// "uniform", "zipf" or "zipf:THETA".
[[nodiscard]] Result<KeyDistribution> parse_key_distribution(const std::string& text);

// Draws from [0, keys). Ranks are spread over the range: a server puts keys that were filled in one after the other
// into the same pages, and all of the hot ones would share a few.
class KeyChoice {
 public:
  KeyChoice(const KeyDistribution& distribution, uint32_t keys);
  // `random`: 64 bits that are uniform.
  [[nodiscard]] uint32_t pick(uint64_t random) const;

 private:
  uint32_t keys_;
  uint64_t stride_ = 1;
  std::vector<double> cumulative_;  // by rank; empty: uniform
};

}  // namespace mose::client
