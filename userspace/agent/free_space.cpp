// SPDX-License-Identifier: MIT
#include "agent/free_space.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include "base/units.h"

namespace mose::agent {

Status check_space(const std::string& directory, uint64_t needed) {
  struct statvfs info {};
  if (statvfs(directory.c_str(), &info) < 0) return fail_errno("look at the free space of " + directory);
  uint64_t available = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (available >= needed) return {};
  return fail(fmt::format("{} has {} free and the images need {}: free some space or set node.runtime_dir", directory,
                          format_bytes(available), format_bytes(needed)));
}

}  // namespace mose::agent
