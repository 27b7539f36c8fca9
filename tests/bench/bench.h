// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kernel/procfs.h"

// What the benchmarks share: an end with words where something cannot be measured, medians, and somebody to be looked at.
namespace mose::test {

[[noreturn]] inline void die(const std::string& what) {
  fmt::print(stderr, "{}: {}\n", program_invocation_short_name, what);
  std::exit(1);
}
template <typename T>
T value(Result<T> result) {
  if (!result) die(result.error().what);
  return std::move(*result);
}
inline void ok(const Status& status) {
  if (!status) die(status.error().what);
}

inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

inline std::vector<int> allowed_processors() {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) die("sched_getaffinity");
  std::vector<int> out;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(static_cast<size_t>(i), &all)) out.push_back(i);
  }
  return out;
}

inline std::string in_words(const std::vector<double>& ms) {
  return fmt::format("{:.2f} ms (at most {:.2f})", median(ms), *std::ranges::max_element(ms));
}

inline void pin_to(pid_t pid, int processor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(processor), &one);
  if (sched_setaffinity(pid, sizeof one, &one) != 0) die("sched_setaffinity");
}

// A child that has written so many bytes, every page different and none that could be compressed, and sleeps.
class WrittenChild {
 public:
  enum class Pages : uint8_t { as_configured, small };
  explicit WrittenChild(uint64_t bytes, Pages pages = Pages::as_configured) {
    int fds[2];
    if (pipe(fds) != 0) die("pipe");
    pid_ = fork();
    if (pid_ < 0) die("fork");
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (at == MAP_FAILED) _exit(1);
      if (pages == Pages::small) (void)madvise(at, bytes, MADV_NOHUGEPAGE);
      auto* words = static_cast<uint64_t*>(at);
      uint64_t state = 1;
      for (uint64_t i = 0; i < bytes / 8; ++i) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        words[i] = state;
      }
      if (write(fds[1], "r", 1) != 1) _exit(1);
      for (;;) pause();
    }
    close(fds[1]);
    char byte;
    if (read(fds[0], &byte, 1) != 1) die("no memory to be looked at");
    close(fds[0]);
    processes = {value(space_of(pid_))};
  }
  ~WrittenChild() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  WrittenChild(const WrittenChild&) = delete;
  WrittenChild& operator=(const WrittenChild&) = delete;

  std::vector<SpaceProcess> processes;

 private:
  pid_t pid_;
};

}  // namespace mose::test
