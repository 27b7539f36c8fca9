// SPDX-License-Identifier: MIT
#include "agent/pager_log.h"

#include <algorithm>

#include "base/fd.h"
#include "base/log.h"
#include "kernel/syscall_filter.h"

namespace mose::agent {

std::map<std::string, unsigned> refused_calls(std::string_view pager_log) {
  constexpr std::string_view kCall = " call=";
  std::map<std::string, unsigned> calls;
  while (!pager_log.empty()) {
    const std::string_view line = pager_log.substr(0, pager_log.find('\n'));
    pager_log.remove_prefix(std::min(line.size() + 1, pager_log.size()));
    const size_t at = line.find(kRefusalText) == line.npos ? line.npos : line.find(kCall);
    if (at == line.npos) continue;
    const std::string_view name = line.substr(at + kCall.size());
    ++calls[std::string(name.substr(0, name.find(' ')))];
  }
  return calls;
}

void tell_refused_calls(const std::string& workload, const std::string& pager_log_path) {
  auto text = read_file(pager_log_path);
  if (!text) return;
  for (const auto& [call, times] : refused_calls(*text)) {
    log::error("the pager was refused a system call: a mistake of ours that wants a report, or an attack",
               {{"workload", workload}, {"call", call}, {"times", times}});
  }
}

}  // namespace mose::agent
