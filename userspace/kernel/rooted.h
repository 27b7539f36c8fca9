// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace mose {

// Opens `path` as a process would whose root is `root`: no symbolic link and no ".." leads out of it. Flags as open(2),
// O_CLOEXEC is added; O_PATH is enough for questions.
[[nodiscard]] Result<Fd> open_in_root(const std::string& root, const std::string& path, int flags);

// What a workload gets of a mount of the node: a clone of that one alone, without what is mounted below it there (the /dev of
// the node, or a /var of its own). As a directory for open_in_root(): "/proc/self/fd/N". Needs the right to mount.
[[nodiscard]] Result<Fd> mount_alone(const std::string& path);

}  // namespace mose
