// SPDX-License-Identifier: MIT
#include "handover/device_name.h"

#include <fmt/format.h>

#include <cstdint>

namespace mose::handover {

std::string device_name(std::string_view prefix, std::string_view workload) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a: short, and the same in every version of ours
  for (char c : workload) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return fmt::format("{}{:08x}", prefix, static_cast<uint32_t>(hash ^ (hash >> 32)));
}

}  // namespace mose::handover
