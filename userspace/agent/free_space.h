// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace mose::agent {

// CRIU's images of a service are 1-2 MB; less room than this in the runtime directory is a refusal before anything is
// touched.
inline constexpr uint64_t kImagesSpaceMin = 16ull << 20;

// An error with both figures when `directory` has less than `needed` bytes free.
[[nodiscard]] Status check_space(const std::string& directory, uint64_t needed);

}  // namespace mose::agent
