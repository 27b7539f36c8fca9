// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace mose::restore {

// The file <socket>.guardian: who holds the descriptors of a migration's pager, for whoever must replace it after its death.
// One line "pid start_time" each; the first is the one that holds everything. Others are left over from a replacement that
// was killed half-way: they must be ended, because a userfaultfd that anybody still holds is not closed.
struct GuardianName {
  uint32_t pid = 0;
  uint64_t start_time = 0;
  bool operator==(const GuardianName&) const = default;
};

struct GuardianList {
  GuardianName current;
  std::vector<GuardianName> stale;
};

inline constexpr size_t kGuardiansMax = 64;  // more replacements than this in a row are no accident

[[nodiscard]] std::string guardian_path(const std::string& socket_path);
// ENOENT: there is no pager that would need one.
[[nodiscard]] Result<GuardianList> read_guardians(const std::string& socket_path);
// Replaced as a whole: a reader sees the old list or the new one.
[[nodiscard]] Status write_guardians(const std::string& socket_path, const GuardianList& list);
void remove_guardians(const std::string& socket_path);

// The first of the list.
[[nodiscard]] Result<GuardianName> read_guardian_file(const std::string& socket_path);

}  // namespace mose::restore
