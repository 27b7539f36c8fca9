// SPDX-License-Identifier: MIT
#pragma once

namespace mose::agent {
inline constexpr const char* kVersion = MOSE_VERSION;
}  // namespace mose::agent
