// SPDX-License-Identifier: MIT
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mose {

// A system call that a process may make; with matches only where both hold ((argument & mask) == value). Of several rules
// for one call one is enough.
struct SyscallRule {
  struct Match {
    unsigned argument = 0;
    uint64_t mask = 0;  // 0: no match is asked for
    uint64_t value = 0;
  };
  const char* name;  // one that this machine's kernels do not have is passed over
  Match first{}, second{};
};

// What is not allowed does nothing, fails with EPERM, and is told by a line on standard error. It does not end the process: those
// that are confined hold a workload's memory. A call by another architecture's convention, which nothing of ours makes, does.
//
// Life: tell_refusals() first; created while memory may be allocated; installed for good, by whoever is confined.
class SyscallFilter {
 public:
  [[nodiscard]] static Result<SyscallFilter> create(std::span<const SyscallRule> allowed);
  // For the calling thread and all that it starts; forbid_dumps_and_privileges() comes before it. One system call, which a filter
  // that is there already must allow.
  [[nodiscard]] Status install() const;

 private:
  explicit SyscallFilter(std::vector<sock_filter> program) : program_(std::move(program)) {}
  std::vector<sock_filter> program_;
};

// From here on refused calls of this process, and of what it forks, are told, the first hundred of them: by a handler of SIGSYS.
// Whoever ignores or blocks that signal dies of a refused call.
inline constexpr std::string_view kRefusalText = "a system call was refused";
[[nodiscard]] Status tell_refusals(std::string_view program);

}  // namespace mose
