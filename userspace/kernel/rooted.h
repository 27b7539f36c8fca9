// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace mose {

// Opens `path` as a process would whose root is `root`: no symbolic link and no ".." leads out of it. Flags as open(2),
// O_CLOEXEC is added; O_PATH is enough for questions.
[[nodiscard]] Result<Fd> open_in_root(const std::string& root, const std::string& path, int flags);

}  // namespace mose
