// SPDX-License-Identifier: MIT
#include "kernel/tracers.h"

#include <dirent.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "base/fd.h"

namespace mose {

Result<std::set<pid_t>> tracers_of(const std::vector<ProcessHandle>& processes) {
  constexpr std::string_view kField = "\nTracerPid:\t";
  std::set<pid_t> tracers;
  for (const ProcessHandle& process : processes) {
    const std::string tasks = "/proc/" + std::to_string(process.pid()) + "/task";
    std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(tasks.c_str()), ::closedir);
    if (!dir && !process.alive()) continue;
    if (!dir) return fail_errno("list threads of process " + std::to_string(process.pid()));
    while (dirent* entry = ::readdir(dir.get())) {
      if (entry->d_name[0] == '.') continue;
      auto text = read_file(tasks + "/" + entry->d_name + "/status", 65536);
      if (!text) continue;
      size_t at = text->find(kField);
      pid_t tracer = at == std::string::npos
                         ? 0
                         : static_cast<pid_t>(std::strtol(text->c_str() + at + kField.size(), nullptr, 10));
      if (tracer != 0) tracers.insert(tracer);
    }
  }
  return tracers;
}

Status wait_untraced(const std::vector<ProcessHandle>& processes, Nanoseconds bound, const std::set<pid_t>& others) {
  constexpr std::chrono::microseconds kPause{500};  // the kernel has no event for it
  Timestamp deadline = now() + bound;
  for (;;) {
    MOSE_ASSIGN(std::set<pid_t> tracers, tracers_of(processes));
    std::erase_if(tracers, [&](pid_t tracer) { return others.contains(tracer); });
    if (tracers.empty()) return {};
    if (now() >= deadline)
      return fail_errno("wait until process " + std::to_string(*tracers.begin()) + " traces no other", ETIMEDOUT);
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace mose
