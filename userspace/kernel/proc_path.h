// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>

namespace mose {

[[nodiscard]] inline std::string proc_path(pid_t pid, const char* leaf) {
  return "/proc/" + std::to_string(pid) + "/" + leaf;
}

}  // namespace mose
