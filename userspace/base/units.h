// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

// Quantities as people write them on the command line and in the configuration. A number without a unit is refused.
namespace mose {

// "50ms", "5s", "200us", "2m".
[[nodiscard]] Result<Nanoseconds> parse_duration(std::string_view text);
// "64MiB", "4KiB", "1GiB", "512B", "10MB" (10^6).
[[nodiscard]] Result<uint64_t> parse_bytes(std::string_view text);
// "500mbit", "1gbit", "100kbit" in bits per second.
[[nodiscard]] Result<uint64_t> parse_bandwidth(std::string_view text);

// "1.2 GiB", "417 KiB", "12 B".
[[nodiscard]] std::string format_bytes(uint64_t bytes);

}  // namespace mose
