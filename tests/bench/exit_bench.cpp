// SPDX-License-Identifier: MIT
// What a process with much memory takes from everybody as it ends: the longest time for which another process that wakes every
// half millisecond did not come to run on the same processor. Killed with all its memory, and after it has given it back in pieces.
// As a source behind the switchover (kernel/tree_memory).
//
//   exit_bench [MEGABYTES [ROUNDS [PIECE_MB]]]
// Medians and maxima. The ways come by turns; each has a process of its own.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench.h"
#include "model/page_set.h"
#include "watcher.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kBefore = std::chrono::milliseconds(200);

[[noreturn]] void live(size_t bytes, std::optional<size_t> piece, int order, int answer) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED || madvise(at, bytes, MADV_NOHUGEPAGE) != 0) _exit(1);
  auto* memory = static_cast<char*>(at);
  for (size_t i = 0; i < bytes; i += kPageSize) static_cast<volatile char*>(memory)[i] = 1;
  char byte = 0;
  if (write(answer, &byte, 1) != 1 || read(order, &byte, 1) != 1) _exit(1);
  for (size_t i = 0; piece && i < bytes; i += *piece) {
    if (madvise(memory + i, std::min(*piece, bytes - i), MADV_DONTNEED) != 0) _exit(1);
  }
  if (write(answer, &byte, 1) != 1) _exit(1);
  for (;;) pause();
}

// The longest stall on the processor of a process with so much memory, from the order to its end until it is gone.
double stall_ms(size_t bytes, std::optional<size_t> piece, int processor) {
  int to[2], from[2];
  if (pipe(to) != 0 || pipe(from) != 0) die("pipe");
  const pid_t pid = fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    pin_to(0, processor);
    live(bytes, piece, to[0], from[1]);
  }
  close(from[1]);
  char byte = 0;
  const auto answer = [&] {
    if (read(from[0], &byte, 1) != 1) die("no such memory");
  };
  answer();
  std::this_thread::sleep_for(kBefore);
  Watcher watcher(processor);
  if (write(to[1], &byte, 1) != 1) die("the process has ended");
  answer();
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  std::this_thread::sleep_for(Watcher::kEvery * 4);
  const double longest = watcher.longest_ms();
  for (const int fd : {to[0], to[1], from[0]}) close(fd);
  return longest;
}

int run(size_t bytes, int rounds, size_t piece) {
  const int processor = allowed_processors().back();
  std::vector<double> whole, pieces;
  for (int i = 0; i < rounds; ++i) {
    whole.push_back(stall_ms(bytes, std::nullopt, processor));
    pieces.push_back(stall_ms(bytes, piece, processor));
  }
  fmt::print("{} MB, {} rounds: others on its processor stood still for {} when it was killed, for {} with its memory given back in pieces of {} MB\n",
             bytes >> 20, rounds, in_words(whole), in_words(pieces), piece >> 20);
  return 0;
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  const size_t megabytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2048;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 3;
  const size_t piece = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 32;
  if (megabytes == 0 || rounds < 1 || piece == 0) mose::test::die("usage: exit_bench [MEGABYTES [ROUNDS [PIECE_MB]]]");
  return mose::test::run(megabytes << 20, rounds, piece << 20);
}
