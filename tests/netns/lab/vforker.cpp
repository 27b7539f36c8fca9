// SPDX-License-Identifier: MIT
// A program that starts others all the time, and is about half of it within vfork(): a number on standard output for each that has ended well.
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>

int main() {
  const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
  for (unsigned long i = 1;; ++i) {
    const pid_t pid = ::vfork();
    if (pid == 0) {
      ::nanosleep(&pause, nullptr);
      ::execl("/bin/true", "true", nullptr);
      ::_exit(1);
    }
    int status = 0;
    if (pid < 0 || ::waitpid(pid, &status, 0) != pid || status != 0) {
      std::printf("failed\n");
      return 1;
    }
    std::printf("%lu\n", i);
    std::fflush(stdout);
    ::nanosleep(&pause, nullptr);
  }
}
