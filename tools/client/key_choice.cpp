// SPDX-License-Identifier: MIT
#include "client/key_choice.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace mose::client {
namespace {

constexpr double kGoldenRatio = 0.6180339887498949;  // its multiples lie far from each other

uint64_t spread(uint32_t keys) {
  auto stride = std::max<uint64_t>(1, static_cast<uint64_t>(kGoldenRatio * keys));
  while (std::gcd(stride, static_cast<uint64_t>(keys)) != 1) ++stride;
  return stride;
}

}  // namespace

Result<KeyDistribution> parse_key_distribution(const std::string& text) {
  KeyDistribution out;
  if (text == "uniform") return out;
  out.zipf = true;
  if (text == "zipf") return out;
  if (text.starts_with("zipf:")) {
    const char *begin = text.data() + 5, *end = text.data() + text.size();
    auto [at, error] = std::from_chars(begin, end, out.theta);
    if (error == std::errc{} && at == end && out.theta > 0 && out.theta <= kThetaMax) return out;
  }
  return fail("keys are uniform, zipf or zipf:THETA (above 0, at most 10), not \"" + text + "\"");
}

KeyChoice::KeyChoice(const KeyDistribution& distribution, uint32_t keys) : keys_(std::max(keys, 1u)) {
  if (!distribution.zipf) return;
  stride_ = spread(keys_);
  cumulative_.reserve(keys_);
  double sum = 0;
  for (uint32_t rank = 1; rank <= keys_; ++rank) cumulative_.push_back(sum += std::pow(rank, -distribution.theta));
}

uint32_t KeyChoice::pick(uint64_t random) const {
  if (cumulative_.empty()) return static_cast<uint32_t>(random % keys_);
  double point = static_cast<double>(random >> 11) * 0x1p-53 * cumulative_.back();
  auto it = std::upper_bound(cumulative_.begin(), cumulative_.end(), point);
  auto rank = static_cast<uint64_t>(std::min<std::ptrdiff_t>(it - cumulative_.begin(), keys_ - 1));
  return static_cast<uint32_t>(rank * stride_ % keys_);
}

}  // namespace mose::client
