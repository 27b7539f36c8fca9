// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

// What the standby workload and its client agree on.
namespace mose::test {

inline constexpr uint16_t kPort4 = 7000, kPort6 = 7001;
inline constexpr size_t kTail = 3000;  // more bytes behind the answer to every eighth number
inline constexpr uint64_t kCommand = uint64_t{1} << 62;
inline constexpr uint64_t kOpenFile = kCommand + 1, kMap = kCommand + 2, kThread = kCommand + 3,
                          kHandler = kCommand + 4, kCloseFile = kCommand + 5, kTimer = kCommand + 6,
                          kUmask = kCommand + 7;

}  // namespace mose::test
