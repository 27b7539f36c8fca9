// SPDX-License-Identifier: MIT
// What the pager's settings cost: rate of the fill by piece, and how long a fault takes while the fill runs.
// Prints a table; asserts nothing.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "netns/pager/harness.h"

namespace mose::test {
namespace {

constexpr uint64_t kPages = 65536;  // 256 MiB
constexpr SpaceId kSpace = 3;
constexpr size_t kTouches = 1500;

TEST(PagerBench, FillRateByPiece) {
  require_userfaultfd();
  FakeProvider provider(1, {});
  provider.add(kSpace, {kToyPage, kPages}, false);
  provider.seal();
  for (uint64_t piece : {16, 32, 64, 128, 512}) {
    std::vector<double> rates;
    for (int run = 0; run < 5; ++run) {
      PagerRig rig(provider, {.piece_before = piece});
      Toy toy(rig.criu(), kSpace, kPages, [] { return 0; });
      rig.pager().pause();
      rig.take_tasks(1);
      toy.wait_registered();
      rig.pager().restore_ended();
      auto start = now();
      rig.pager().resume();
      ASSERT_TRUE(rig.wait_complete());
      rates.push_back(kPages * 4096.0 / static_cast<double>((now() - start).count()));
    }
    std::ranges::sort(rates);
    std::printf("fill, pieces of %4lu KiB: median %.2f GB/s, best %.2f\n", piece * 4, rates[2], rates[4]);
  }
}

TEST(PagerBench, FaultTimeWhileTheFillRuns) {
  require_userfaultfd();
  FakeProvider provider(1, {});
  provider.add(kSpace, {kToyPage, kPages}, false);
  provider.seal();
  auto* times = static_cast<std::array<uint32_t, kTouches>*>(
      ::mmap(nullptr, sizeof(std::array<uint32_t, kTouches>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  for (bool realtime : {true, false})
    for (uint64_t piece : {0, 16, 32, 64, 512}) {
      PagerRig rig(provider, {.fill_before_resume = false, .piece_after = piece, .realtime = realtime});
      Toy toy(rig.criu(), kSpace, kPages, [times]() -> int {
        uint64_t page = 1;
        for (uint32_t& time : *times) {
          page = (page * 6364136223846793005 + 1442695040888963407);
          auto start = now();
          (void)*reinterpret_cast<volatile char*>(toy_page((page >> 20) % kPages));
          time = static_cast<uint32_t>((now() - start).count() / 1000);
        }
        return 0;
      });
      rig.take_tasks(1);
      toy.wait_registered();
      rig.pager().restore_ended();
      if (piece != 0) rig.pager().running();
      auto start = now();
      toy.go();
      EXPECT_EQ(toy.wait(), 0);
      auto took = now() - start;
      auto stats = rig.pager().stats();
      std::vector<uint32_t> faults;
      for (uint32_t t : *times)
        if (t > 5) faults.push_back(t);
      std::ranges::sort(faults);
      if (faults.empty()) faults.push_back(0);
      std::printf("%s, fill %4lu KiB: %4zu faults, seen by the thread p50 %u us, p99 %u, max %u; served p50 %lu, p99 %lu; "
                  "%zu touches in %.1f ms, filled %lu pages\n",
                  realtime ? "realtime" : "ordinary", piece * 4, faults.size(), faults[faults.size() / 2],
                  faults[faults.size() * 99 / 100], faults.back(), stats.fault_p50_us, stats.fault_p99_us, kTouches,
                  to_ms(took), stats.installed_pages);
    }
  ::munmap(times, sizeof(std::array<uint32_t, kTouches>));
}

}  // namespace
}  // namespace mose::test
