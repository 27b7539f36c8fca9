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

// A standby of 200 MB: how fast the store is put into it, and how long the seal waits for its stale pages.
TEST(PagerBench, StandbyStagingAndRefresh) {
  require_userfaultfd();
  constexpr uint64_t kStandbyPages = 51200;
  for (uint64_t stale : {0, 1000, 10000}) {
    std::vector<double> rates, seals, refreshes;
    for (int run = 0; run < 7; ++run) {
      StoreProvider provider(512u << 20, {});
      for (uint64_t at = 0; at < kStandbyPages; at += 512) provider.put(kSpace, {{kToyPage + at, 512}}, 1);
      PagerRig rig(provider);
      Toy toy(rig.criu(), kSpace, kStandbyPages, [] { return 0; });
      rig.stands_by(toy.pid());
      ASSERT_TRUE(rig.pager().standby());
      rig.take_tasks(1);
      toy.wait_registered();
      auto start = now();
      rig.pager().restore_ended();
      ASSERT_TRUE(eventually([&] { return rig.staged(); }));
      rates.push_back(kStandbyPages * 4096.0 / static_cast<double>(rig.pager().stats().standby.staged_us * 1000 -
                                                                    to_us(start) * 1000));
      // Paused, so that they are not put in again before the seal.
      rig.pager().pause();
      std::vector<PageRun> runs;
      for (uint64_t i = 0; i < stale; ++i) {
        runs.push_back({kToyPage + i * (kStandbyPages / stale), 1});
        if (runs.size() == 512 || i + 1 == stale) provider.put(kSpace, std::exchange(runs, {}), 2);
      }
      auto sealing = now();
      provider.seal(kSpace, PageSet::from_runs({{kToyPage, kStandbyPages}}), {}, 3);
      auto sealed = now();
      rig.pager().resume();
      rig.pager().notice_sealed();
      while (!rig.refreshed()) ::sched_yield();
      seals.push_back(to_ms(sealed - sealing));
      refreshes.push_back(static_cast<double>(rig.pager().stats().standby.refreshed_us - to_us(sealed)) / 1000);
      EXPECT_EQ(rig.pager().stats().standby.stale_pages, stale);
    }
    for (auto* list : {&rates, &seals, &refreshes}) std::ranges::sort(*list);
    std::printf("standby of 200 MB, %5lu stale: staged at %.2f GB/s, store sealed in %.2f ms, seal to refreshed median %.2f ms, "
                "worst %.2f\n",
                stale, rates[3], seals[3], refreshes[3], refreshes[6]);
  }
}

}  // namespace
}  // namespace mose::test
