// SPDX-License-Identifier: MIT
// What the order of the fill is worth: a process that goes on with the pages it used most waits for fewer of them when
// those are filled in first than when they come by address. Both in one run, on the same pages.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "netns/pager/harness.h"

namespace mose::test {
namespace {

constexpr uint64_t kSalt = 0x0dde;
constexpr SpaceId kSpace = 42;
constexpr uint64_t kPages = 24'576;
constexpr uint64_t kHotPages = kPages / 16;
// Between two pages. One that only ran from fault to fault would leave the fill no time.
constexpr useconds_t kWorkUs = 50;

// Pages here and there in the upper half, as those of a heap that has grown, in no order.
std::vector<uint64_t> hot_pages() {
  std::vector<uint64_t> pages(kPages / 2);
  std::iota(pages.begin(), pages.end(), kPages / 2);
  std::shuffle(pages.begin(), pages.end(), std::mt19937_64(7));
  pages.resize(kHotPages);
  return pages;
}

// Faults of a process that reads its hot pages from the thaw on.
uint64_t faults_with(bool ordered) {
  const std::vector<uint64_t> hot = hot_pages();
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, kPages}, false);
  if (ordered) {
    std::vector<PageRun> runs;
    for (uint64_t page : hot) runs.push_back({kToyPage + page, 1});
    provider.set_hot({PageSet::from_runs(std::move(runs))});
  }
  provider.seal();
  PagerRig rig(provider, {.fill_before_resume = false});
  Toy toy(rig.criu(), kSpace, kPages, [&] {
    for (uint64_t page : hot) {
      if (!page_is(kSalt, kToyPage + page, toy_page(page))) return 1;
      ::usleep(kWorkUs);
    }
    return 0;
  });
  rig.run(toy);
  EXPECT_EQ(toy.wait(), 0);
  EXPECT_TRUE(rig.wait_complete());
  return rig.pager().stats().faults;
}

TEST(PagerOrder, HotPagesFirstSpareFaults) {
  require_userfaultfd();
  uint64_t by_heat = 0, by_address = 0;
  for (int i = 0; i < 3; ++i) {
    by_address += faults_with(false);
    by_heat += faults_with(true);
  }
  std::printf("faults after the thaw, three runs of %llu hot pages: %llu by address, %llu hot first\n",
              static_cast<unsigned long long>(kHotPages), static_cast<unsigned long long>(by_address),
              static_cast<unsigned long long>(by_heat));
  EXPECT_LT(4 * by_heat, 3 * by_address);
}

}  // namespace
}  // namespace mose::test
