// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

// How CRIU frames its images: numbers are little endian; the common magic stands in front of the magic of every image but
// inventory.img.
namespace mose::restore {

inline constexpr uint32_t kCommonMagic = 0x54564319;

// `bytes` has four at least.
[[nodiscard]] inline uint32_t get_u32(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  return value;
}

inline void put_u32(std::string& out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

}  // namespace mose::restore
