// SPDX-License-Identifier: MIT
#pragma once

#include "client/streams.h"

namespace mose::client {

inline constexpr int64_t kMs = 1'000'000;

inline Reply status() { return {Reply::Kind::status, "OK", 0}; }
inline uint64_t bad(const Counts& c) { return c.errors + c.resets + c.lost + c.duplicated + c.reordered; }

}  // namespace mose::client
