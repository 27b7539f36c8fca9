// SPDX-License-Identifier: MIT
// What taking memory for a page store takes from everybody on the same processor: the longest time for which another process that
// wakes every half millisecond did not come to run, and how long it took in all. Taken straight away, and as MemoryTaker does
// (kernel/memory_file). They differ where the host of a virtual machine backs memory when it is first used; so that it has taken
// back what was given back, there is a pause before each.
//
//   take_bench [MEGABYTES [ROUNDS]]
// Medians and maxima. The ways come by turns; each has a file of its own.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "bench.h"
#include "kernel/memory_file.h"
#include "model/page_set.h"
#include "watcher.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kHostTakesBack = std::chrono::seconds(4);
constexpr size_t kPiece = kTablePages * kPageSize;

struct Taken {
  std::vector<double> stall_ms, all_ms;
};

// By a process of a session of its own, as an agent is (watcher.h).
[[noreturn]] void take(size_t bytes, bool straight, int order, int answer) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::setsid();
  const Fd file = value(huge_memory_file("bench"));
  if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) die("ftruncate");
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) die("mmap");
  auto* data = static_cast<std::byte*>(at);
  char byte = 0;
  if (::read(order, &byte, 1) != 1) ::_exit(1);
  MemoryTaker taker;
  const Timestamp start = now();
  for (size_t done = 0; done < bytes; done += kPiece) {
    if (!straight) ok(taker.take(file.get(), data, done, kPiece));
    else if (::fallocate(file.get(), 0, static_cast<off_t>(done), kPiece) != 0 || ::madvise(data + done, kPiece, MADV_POPULATE_WRITE) != 0) die("no such memory");
  }
  const double all = to_ms(now() - start);
  if (::write(answer, &all, sizeof all) != sizeof all || ::read(order, &byte, 1) != 1) ::_exit(1);
  ::_exit(0);  // which takes time as well, when nobody watches any more
}

void measure(size_t bytes, bool straight, int processor, Taken& out) {
  int to[2], from[2];
  if (::pipe(to) != 0 || ::pipe(from) != 0) die("pipe");
  const pid_t pid = ::fork();
  if (pid < 0) die("fork");
  if (pid == 0) {
    pin_to(0, processor);
    take(bytes, straight, to[0], from[1]);
  }
  ::close(from[1]);
  std::this_thread::sleep_for(kHostTakesBack);
  Watcher watcher(processor);
  double all = 0;
  char byte = 0;
  if (::write(to[1], &byte, 1) != 1 || ::read(from[0], &all, sizeof all) != sizeof all) die("no such memory");
  out.all_ms.push_back(all);
  out.stall_ms.push_back(watcher.longest_ms());
  if (::write(to[1], &byte, 1) != 1) die("the process has ended");
  ::waitpid(pid, nullptr, 0);
  for (const int fd : {to[0], to[1], from[0]}) ::close(fd);
}

int run(size_t bytes, int rounds) {
  const int processor = allowed_processors().back();
  Taken straight, used_first;
  for (int i = 0; i < rounds; ++i) {
    measure(bytes, true, processor, straight);
    measure(bytes, false, processor, used_first);
  }
  fmt::print("{} MB, {} rounds. Taken straight away: others on its processor stood still for {}, {} in all.\nUsed first: {}, {} in all.\n", bytes >> 20, rounds,
             in_words(straight.stall_ms), in_words(straight.all_ms), in_words(used_first.stall_ms), in_words(used_first.all_ms));
  return 0;
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  const size_t megabytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 256;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 3;
  if (megabytes == 0 || megabytes % 2 != 0 || rounds < 1) mose::test::die("usage: take_bench [MEGABYTES, even [ROUNDS]]");
  return mose::test::run(megabytes << 20, rounds);
}
