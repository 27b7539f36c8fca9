// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace mose::agent {

// The pager's log goes with its migration's directory. What must not go with it is told in ours: system calls that the pager or its
// guardian was refused (kernel/syscall_filter.h), each once with how often.
[[nodiscard]] std::map<std::string, unsigned> refused_calls(std::string_view pager_log);
void tell_refused_calls(const std::string& workload, const std::string& pager_log_path);

}  // namespace mose::agent
