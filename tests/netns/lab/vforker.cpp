// SPDX-License-Identifier: MIT
// A program that starts others all the time, and is about half of it within vfork(): a number on standard output for each that has ended well.
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

namespace {

constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 1'000'000};

// By itself: what a caller keeps in registers is not certain behind vfork().
[[gnu::noinline]] bool one_ends_well() {
  const pid_t pid = ::vfork();
  if (pid == 0) {
    ::nanosleep(&kPause, nullptr);
    ::execl("/bin/true", "true", nullptr);
    ::_exit(1);
  }
  int status = 0;
  return pid > 0 && ::waitpid(pid, &status, 0) == pid && status == 0;
}

}  // namespace

int main() {
  for (unsigned long i = 1; one_ends_well(); ++i) {
    std::printf("%lu\n", i);
    std::fflush(stdout);
    ::nanosleep(&kPause, nullptr);
  }
  std::printf("failed\n");
  return 1;
}
