// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "restore/images.h"

namespace mose::restore {

// What CRIU would give to any of the threads in `images`: a set of bits, permitted capabilities. Whoever restores them can compare it
// with what was said before they came. Fails on an image that says it in a way that is not read here, so that nothing is passed over.
[[nodiscard]] Result<uint64_t> permitted_capabilities(const std::vector<ImageFile>& images);

}  // namespace mose::restore
