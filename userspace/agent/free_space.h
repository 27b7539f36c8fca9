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

// An error with both figures when `available` bytes of memory are too few for the arrival of a workload that has
// `memory_bytes`, whatever a peer says that it has.
[[nodiscard]] Status check_memory(uint64_t available, uint64_t memory_bytes);

}  // namespace mose::agent
