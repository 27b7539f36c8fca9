// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

namespace mose {

[[nodiscard]] inline std::string proc_path(pid_t pid, std::string_view leaf) {
  return "/proc/" + std::to_string(pid) + "/" + std::string(leaf);
}

// Of a thread, as long as it is one of that process.
[[nodiscard]] inline std::string thread_path(pid_t pid, pid_t tid, std::string_view leaf) {
  return proc_path(pid, "task/" + std::to_string(tid) + "/" + std::string(leaf));
}

// The numbers in a directory of /proc, ascending: processes, threads or descriptors. None where it cannot be read.
[[nodiscard]] std::vector<int> numbers_in(const std::string& directory);

}  // namespace mose
