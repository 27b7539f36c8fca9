// SPDX-License-Identifier: MIT
#include "kernel/tracers.h"

#include <dirent.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "base/directory.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"

namespace mose {

namespace {

// visit(its number) for each thread, until it gives false.
template <typename Visit>
Status for_each_thread(const std::vector<ProcessHandle>& processes, Visit visit) {
  for (const ProcessHandle& process : processes) {
    Directory dir = open_directory(proc_path(process.pid(), "task"));
    if (!dir && !process.alive()) continue;
    if (!dir) return fail_errno("list threads of process " + std::to_string(process.pid()));
    while (dirent* entry = ::readdir(dir.get())) {
      if (entry->d_name[0] == '.') continue;
      if (!visit(static_cast<pid_t>(std::atoi(entry->d_name)))) return {};
    }
  }
  return {};
}

}  // namespace

Result<std::set<pid_t>> tracers_of(const std::vector<ProcessHandle>& processes) {
  std::set<pid_t> tracers;
  MOSE_TRY(for_each_thread(processes, [&](pid_t thread) {
    if (pid_t tracer = tracer_of(thread); tracer != 0) tracers.insert(tracer);
    return true;
  }));
  return tracers;
}

Result<pid_t> first_traced(const std::vector<ProcessHandle>& processes) {
  pid_t traced = 0, looker = 0;
  Status looked;
  // A thread of its own: what it traces is free again when it has ended.
  std::thread([&] {
    looker = ::gettid();
    looked = for_each_thread(processes, [&](pid_t thread) {
      bool refused = ::ptrace(PTRACE_SEIZE, thread, nullptr, nullptr) != 0 && errno == EPERM;
      // The kernel refuses both a thread that is traced and one that has ended and waits for its parent.
      if (refused && !has_ended(thread)) traced = thread;
      return traced == 0;
    });
  }).join();
  // The kernel tells who joins before it lets go of what the thread traced.
  while (::tgkill(::getpid(), looker, 0) == 0) std::this_thread::sleep_for(std::chrono::microseconds(20));
  MOSE_TRY(looked);
  return traced;
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
