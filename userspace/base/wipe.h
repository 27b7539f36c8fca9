// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"

namespace mose {

// Overwrites a file with zeros, in place and over its whole length, so that what was in it is neither in its pages (tmpfs) nor in its present
// blocks (a disk, for which it is synced) when it has been removed. Only a regular file that has no other name: a file that somebody else
// has as well is his, and a link is not followed. Anything else, and what is not there, is left as it is and is no error. Blocking: 0.3 ms for a
// megabyte of tmpfs. `path` below `dir`, or anywhere with AT_FDCWD.
[[nodiscard]] Status wipe_file_at(int dir, const std::string& path);

}  // namespace mose
