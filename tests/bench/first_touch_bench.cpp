// SPDX-License-Identifier: MIT
// What a resumed workload pays for memory that is all there: pages that somebody else has put in, as into a standby, are read
// for the first time, in no order, and once more. Virtual machines whose hypervisor keeps page tables of its own fill them then,
// unseen by the guest; the more memory a request touches that none before it has, the longer a backlog takes to be answered.
//
//   first_touch_bench [ROUNDS [PAGES [TOUCHED]]]
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "base/clock.h"
#include "bench.h"
#include "model/page_set.h"

namespace mose::test {
namespace {

// By another process, which the memory is none of.
void fill(char* at, size_t pages) {
  const pid_t owner = ::getpid(), writer = ::fork();
  if (writer < 0) die("fork");
  if (writer == 0) {
    std::vector<char> page(kPageSize, 'x');
    for (size_t i = 0; i < pages; ++i) {
      iovec from{page.data(), page.size()}, to{at + i * kPageSize, page.size()};
      if (::process_vm_writev(owner, &from, 1, &to, 1, 0) != static_cast<ssize_t>(page.size())) ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  if (::waitpid(writer, &status, 0) != writer || status != 0) die("the memory could not be filled from outside");
}

double touch(const char* at, const std::vector<size_t>& order) {
  long sum = 0;
  const Timestamp start = now();
  for (size_t page : order) sum += static_cast<const volatile char*>(at)[page * kPageSize];
  const Nanoseconds took = now() - start;
  if (sum != static_cast<long>(order.size()) * 'x') die("a page is not what was put in");
  return to_ms(took) * 1000 / static_cast<double>(order.size());
}

int run(int rounds, size_t pages, size_t touched) {
  std::vector<double> first, again;
  std::mt19937_64 random(1);
  for (int round = 0; round < rounds; ++round) {
    void* memory = ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || ::madvise(memory, pages * kPageSize, MADV_NOHUGEPAGE) != 0) die("no memory");
    auto* at = static_cast<char*>(memory);
    fill(at, pages);
    std::vector<size_t> order(pages);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::shuffle(order, random);
    order.resize(std::min(touched, pages));
    first.push_back(touch(at, order));
    again.push_back(touch(at, order));
    ::munmap(memory, pages * kPageSize);
  }
  fmt::print("{} rounds of {} pages of {}: first touch {:.2f} us (median), again {:.2f}\n", rounds, std::min(touched, pages), pages,
             median(first), median(again));
  return 0;
}

}  // namespace
}  // namespace mose::test

int main(int argc, char** argv) {
  auto number = [&](int i, long otherwise) { return argc > i ? std::max(std::atol(argv[i]), 1L) : otherwise; };
  return mose::test::run(static_cast<int>(number(1, 5)), static_cast<size_t>(number(2, 1 << 18)), static_cast<size_t>(number(3, 20'000)));
}
