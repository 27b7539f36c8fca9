// SPDX-License-Identifier: MIT
#include "agent/free_space.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <limits>

#include "base/units.h"

namespace mose::agent {
namespace {

// Images and the workload's own needs while it restores: what must be free beside its memory.
constexpr uint64_t kMemoryMargin = 64ull << 20;
// The page store and the restored tree each hold the memory once at the worst moment.
constexpr uint64_t kCopies = 2;

}  // namespace

Status check_space(const std::string& directory, uint64_t needed) {
  struct statvfs info {};
  if (statvfs(directory.c_str(), &info) < 0) return fail_errno("look at the free space of " + directory);
  uint64_t available = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (available >= needed) return {};
  return fail(fmt::format("{} has {} free and the images need {}: free some space or set node.runtime_dir", directory,
                          format_bytes(available), format_bytes(needed)));
}

Status check_memory(uint64_t available, uint64_t memory_bytes) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  const uint64_t needed = memory_bytes > (kMost - kMemoryMargin) / kCopies ? kMost : kCopies * memory_bytes + kMemoryMargin;
  if (available >= needed) return {};
  return fail(fmt::format("{} of memory are available and the workload needs {} while it arrives", format_bytes(available),
                          format_bytes(needed)));
}

}  // namespace mose::agent
