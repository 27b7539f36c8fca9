// SPDX-License-Identifier: MIT
// What a process with much memory pays for having been away: the time from a wake to its first step, when it has slept, and when it
// was woken every 10 ms until some time before. A hypervisor that keeps page tables of its own looks through those of a process that
// runs again; a guest sees nothing of it but the time that is missing. As a standby that is thawed.
//
//   wake_bench [MEGABYTES [ROUNDS [PAUSE_MS]]]      PAUSE_MS: from the last wake to the one that is measured
// Medians and maxima. The ways come by turns.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench.h"
#include "model/page_set.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kAway = std::chrono::seconds(2), kEvery = std::chrono::milliseconds(10);

// Sleeps until it is told to say when it has woken.
class Sleeper {
 public:
  explicit Sleeper(size_t bytes) {
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) die("pipe");
    pid_ = fork();
    if (pid_ < 0) die("fork");
    if (pid_ == 0) {
      close(to[1]);
      live(bytes, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    to_ = to[1];
    from_ = from[0];
    (void)answer();
  }
  ~Sleeper() {
    close(to_);
    close(from_);
    waitpid(pid_, nullptr, 0);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;

  double wake_ms() const {
    const Timestamp start = now();
    if (write(to_, "", 1) != 1) die("the sleeper has ended");
    return to_ms(answer() - start);
  }

 private:
  [[noreturn]] static void live(size_t bytes, int order, int answer) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || madvise(memory, bytes, MADV_NOHUGEPAGE) != 0) _exit(1);
    for (size_t at = 0; at < bytes; at += kPageSize) static_cast<volatile char*>(memory)[at] = 1;
    do {
      const Timestamp woken = now();
      if (write(answer, &woken, sizeof woken) != sizeof woken) _exit(1);
      char byte;
      if (read(order, &byte, 1) != 1) _exit(0);
    } while (true);
  }
  [[nodiscard]] Timestamp answer() const {
    Timestamp woken;
    if (read(from_, &woken, sizeof woken) != sizeof woken) die("the sleeper has no such memory");
    return woken;
  }

  pid_t pid_;
  int to_, from_;
};

int run(size_t megabytes, int rounds, Nanoseconds pause) {
  const Sleeper sleeper(megabytes << 20);
  std::vector<double> away, kept;
  for (int i = 0; i < rounds; ++i) {
    std::this_thread::sleep_for(kAway + pause);
    away.push_back(sleeper.wake_ms());
    for (const Timestamp end = now() + kAway; now() < end; std::this_thread::sleep_for(kEvery)) (void)sleeper.wake_ms();
    std::this_thread::sleep_for(pause);
    kept.push_back(sleeper.wake_ms());
  }
  fmt::print("{} MB, {} rounds: a wake after 2 s took {:.2f} ms (at most {:.2f}), after wakes every 10 ms and {:.0f} ms without {:.2f} ({:.2f})\n",
             megabytes, rounds, median(away), *std::ranges::max_element(away), to_ms(pause), median(kept), *std::ranges::max_element(kept));
  return 0;
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  const size_t megabytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 4096;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 10, pause = argc > 3 ? std::atoi(argv[3]) : 80;
  if (megabytes == 0 || rounds < 1 || pause < 0) mose::test::die("usage: wake_bench [MEGABYTES [ROUNDS [PAUSE_MS]]]");
  return mose::test::run(megabytes, rounds, std::chrono::milliseconds(pause));
}
