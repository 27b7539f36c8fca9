// SPDX-License-Identifier: MIT
#pragma once

#include "move/codec.h"

namespace mose::move {

// The migration that the tests of this folder play.
inline const StreamId kStream{MigrationId{{1, 2, 3}}, 4};
inline constexpr SpaceId kSpace = 5;

}  // namespace mose::move
