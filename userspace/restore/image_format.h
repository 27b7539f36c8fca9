// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// How CRIU frames its images: the common magic (not in inventory.img), that of the kind, then messages with their length in
// front, and behind them raw bytes where the kind has some. Numbers are little endian.
namespace mose::restore {

inline constexpr uint32_t kCommonMagic = 0x54564319;
inline constexpr uint32_t kMagicInventory = 0x58313116, kMagicTree = 0x50273030, kMagicCore = 0x55053847,
                          kMagicIds = 0x54432030, kMagicMm = 0x57492820, kMagicFdinfo = 0x56213732,
                          kMagicFiles = 0x56303138, kMagicFs = 0x51403912, kMagicTcpStream = 0x51465506,
                          kMagicPipesData = 0x56453709, kMagicTimens = 0x43114433, kMagicPageMap = 0x56084025;

// `bytes` has four at least.
[[nodiscard]] inline uint32_t get_u32(std::string_view bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  return value;
}

inline void put_u32(std::string& out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

struct ImageContent {
  std::vector<std::string_view> messages;
  std::string_view rest;  // raw bytes behind the messages, where the kind has them
};
// As views into `bytes`. `count`: exactly so many messages, then raw bytes; 0: messages up to the end.
[[nodiscard]] Result<ImageContent> split_image(const std::string& name, std::string_view bytes, uint32_t magic,
                                               size_t count = 0);

}  // namespace mose::restore
