// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mose::restore {

// What lies otherwise in a later dump's image than in that of an earlier one which both ends have. The images of pages are nearly all
// of a dump and hardly ever change between two of them, and in a switchover every copy of them counts.

struct ImagePiece {
  uint64_t offset = 0;     // bytes into the later image; ascending, without overlaps
  std::string_view bytes;  // never empty
};

struct ImageDifference {
  uint64_t size = 0;      // bytes of the later image
  uint64_t checksum = 0;  // of it, XXH3-64
  std::vector<ImagePiece> pieces;  // views into the later image
};

// Nothing where the whole image is not much more: small images, and those that have little in common.
[[nodiscard]] std::optional<ImageDifference> image_difference(std::string_view early, std::string_view later);

// The later image. What does not fit together, or gives other bytes than the sender had, is an error.
[[nodiscard]] Result<std::string> apply_difference(std::string_view early, const ImageDifference& difference);

}  // namespace mose::restore
