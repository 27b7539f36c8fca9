// SPDX-License-Identifier: MIT
#include <sys/mman.h>
#include <sys/wait.h>

#include <thread>

#include "netns/pager/harness.h"

namespace mose::test {
namespace {

constexpr uint64_t kSalt = 0x7e57;
constexpr SpaceId kSpace = 9;

class PagerEvents : public testing::Test {
 protected:
  static void SetUpTestSuite() { require_userfaultfd(); }
};

bool right(uint64_t page, const void* at) { return page_is(kSalt, kToyPage + page, at); }

TEST_F(PagerEvents, WhatIsRemovedDuringTheFillIsNeverBroughtBack) {
  constexpr uint64_t kPages = 4096;
  for (int round = 0; round < 12; ++round) {
    FakeProvider provider(kSalt, std::chrono::microseconds(300));
    provider.add(kSpace, {kToyPage, kPages / 2}, false);
    provider.add(kSpace, {kToyPage + kPages / 2, kPages / 2}, true);
    provider.seal();
    PagerRig rig(provider, {.fill_before_resume = false});
    Toy toy(rig.criu(), kSpace, kPages, [round]() -> int {
      std::atomic<int> bad{0};
      std::vector<std::thread> threads;
      for (uint64_t t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
          // Each thread owns every third block of 16 pages: removes a part of it, then looks.
          for (uint64_t block = t; block < kPages / 16; block += 3) {
            uint64_t first = block * 16;
            if ((block + static_cast<uint64_t>(round)) % 2 == 0 && !right(first + 5, toy_page(first + 5))) ++bad;
            if (::madvise(toy_page(first + 4), 8 * kPageSize, MADV_DONTNEED) != 0) ++bad;
            for (uint64_t i = 4; i < 12; ++i)
              if (!page_is_zero(toy_page(first + i))) ++bad;
            for (uint64_t i : {0, 3, 12, 15})
              if (!right(first + i, toy_page(first + i))) ++bad;
          }
        });
      for (auto& thread : threads) thread.join();
      for (uint64_t i = 0; i < kPages; ++i) {
        bool gone = i % 16 >= 4 && i % 16 < 12;
        if (gone ? !page_is_zero(toy_page(i)) : !right(i, toy_page(i))) ++bad;
      }
      return bad == 0 ? 0 : 1;
    });
    rig.take_tasks(1);
    toy.wait_registered();
    rig.pager().restore_ended();
    toy.go();
    rig.pager().running();
    EXPECT_EQ(toy.wait(), 0) << "round " << round;
    provider.push(kSpace, {kToyPage + kPages / 2, kPages / 2});
    EXPECT_TRUE(rig.wait_complete());
    EXPECT_GT(rig.pager().stats().remove_events, 0u);
  }
}

TEST_F(PagerEvents, UnmappedPagesAreNotMissedAndTheirAddressesCanBeUsedAgain) {
  constexpr uint64_t kPages = 1024;
  FakeProvider provider(kSalt, std::chrono::milliseconds(1));
  provider.add(kSpace, {kToyPage, kPages}, true);
  provider.seal();
  PagerRig rig(provider);
  Toy toy(rig.criu(), kSpace, kPages, []() -> int {
    if (::munmap(toy_page(100), 824 * kPageSize) != 0) return 2;
    void* again = ::mmap(toy_page(200), 100 * kPageSize, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (again == MAP_FAILED) return 3;
    for (uint64_t i = 200; i < 300; ++i)
      if (!page_is_zero(toy_page(i))) return 4;
    for (uint64_t i = 0; i < 100; ++i)
      if (!right(i, toy_page(i)) || !right(i + 924, toy_page(i + 924))) return 5;
    ::usleep(20000);
    return 0;
  });
  rig.take_tasks(1);
  toy.wait_registered();
  rig.pager().restore_ended();
  toy.go();
  EXPECT_TRUE(rig.wait_complete()) << "200 of 1024 pages were wanted";
  EXPECT_EQ(toy.wait(), 0);
}

TEST_F(PagerEvents, MovedPagesAreServedAtTheirNewPlace) {
  constexpr uint64_t kPages = 600;
  FakeProvider provider(kSalt, std::chrono::milliseconds(1));
  provider.add(kSpace, {kToyPage, 300}, false);
  provider.add(kSpace, {kToyPage + 300, 300}, true);
  provider.seal();
  PagerRig rig(provider, {.fill_before_resume = false});
  Toy toy(rig.criu(), kSpace, kPages, []() -> int {
    auto move = [](std::byte* from, uint64_t pages, std::byte* to) {
      return ::mremap(from, pages * kPageSize, pages * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
    };
    if (!right(210, toy_page(210))) return 2;
    // A block over the border of local and remote, far away, and a part of it on again.
    if (!move(toy_page(200), 200, toy_page(10000))) return 3;
    if (!move(toy_page(10050), 60, toy_page(20000))) return 4;
    for (uint64_t i = 0; i < 600; ++i) {
      std::byte* at = i < 200 || i >= 400 ? toy_page(i)
                      : i >= 250 && i < 310 ? toy_page(20000 + i - 250)
                                            : toy_page(10000 + i - 200);
      if (!right(i, at)) return 5;
    }
    return 0;
  });
  rig.take_tasks(1);
  toy.wait_registered();
  rig.pager().restore_ended();
  toy.go();
  EXPECT_EQ(toy.wait(), 0);
  EXPECT_EQ(rig.pager().stats().remap_events, 2u);
}

TEST_F(PagerEvents, AForkedChildGetsItsOwnCopyOfWhatIsStillToCome) {
  constexpr uint64_t kPages = 2048;
  for (bool fill : {false, true}) {
    FakeProvider provider(kSalt, std::chrono::microseconds(500));
    provider.add(kSpace, {kToyPage, kPages / 2}, false);
    provider.add(kSpace, {kToyPage + kPages / 2, kPages / 2}, true);
    provider.seal();
    PagerRig rig(provider, {.fill_before_resume = false, .servers = 2});
    Toy toy(rig.criu(), kSpace, kPages, []() -> int {
      if (!right(3, toy_page(3))) return 2;
      if (::madvise(toy_page(40), 10 * kPageSize, MADV_DONTNEED) != 0) return 3;
      int bad = 0;
      for (int generation = 0; generation < 3; ++generation) {
        pid_t child = ::fork();
        if (child == 0) {
          // What the child writes, removes and moves is its own affair.
          toy_page(60)[0] = std::byte{1};
          if (::madvise(toy_page(1500), 10 * kPageSize, MADV_DONTNEED) != 0) _exit(3);
          for (uint64_t i = 0; i < kPages; ++i) {
            bool gone = (i >= 40 && i < 50) || (i >= 1500 && i < 1510);
            if (i == 60) continue;
            if (gone ? !page_is_zero(toy_page(i)) : !right(i, toy_page(i))) _exit(4);
          }
          _exit(0);
        }
        int status;
        if (::waitpid(child, &status, 0) != child || status != 0) ++bad;
      }
      for (uint64_t i = 0; i < kPages; ++i)
        if (i >= 40 && i < 50 ? !page_is_zero(toy_page(i)) : !right(i, toy_page(i))) ++bad;
      return bad == 0 ? 0 : 1;
    });
    rig.take_tasks(1);
    toy.wait_registered();
    rig.pager().restore_ended();
    toy.go();
    if (fill) rig.pager().running();
    EXPECT_EQ(toy.wait(), 0);
    if (!fill) {
      EXPECT_EQ(rig.pager().stats().fork_events, 3u);
      EXPECT_EQ(rig.pager().stats().spaces, 4u);
    }
  }
}

TEST_F(PagerEvents, ForksRemovalsAndFaultsAllAtOnce) {
  constexpr uint64_t kPages = 2048;
  FakeProvider provider(kSalt, std::chrono::microseconds(200));
  for (uint64_t i = 0; i < kPages; i += 64) provider.add(kSpace, {kToyPage + i, 64}, i % 128 == 0);
  provider.seal();
  PagerRig rig(provider, {.servers = 2});
  Toy toy(rig.criu(), kSpace, kPages, []() -> int {
    std::atomic<int> bad{0};
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 2; ++t)
      threads.emplace_back([&, t] {
        for (uint64_t block = t; block < kPages / 8; block += 2) {
          if (!right(block * 8, toy_page(block * 8))) ++bad;
          if (::madvise(toy_page(block * 8 + 4), 2 * kPageSize, MADV_DONTNEED) != 0) ++bad;
          if (!page_is_zero(toy_page(block * 8 + 4)) || !page_is_zero(toy_page(block * 8 + 5))) ++bad;
        }
      });
    for (int i = 0; i < 8; ++i) {
      pid_t child = ::fork();
      if (child == 0) {
        // Blocks are removed as a whole: both pages are as written, or both are gone.
        for (uint64_t block = 0; block < kPages / 8; ++block) {
          std::byte* at = toy_page(block * 8 + 4);
          if (!right(block * 8 + 1, toy_page(block * 8 + 1))) _exit(1);
          if (!(page_is_zero(at) || right(block * 8 + 4, at))) _exit(2);
        }
        _exit(0);
      }
      int status;
      if (::waitpid(child, &status, 0) != child || status != 0) ++bad;
    }
    for (auto& thread : threads) thread.join();
    return bad == 0 ? 0 : 1;
  });
  rig.run(toy);
  EXPECT_EQ(toy.wait(), 0);
}

TEST_F(PagerEvents, APieceOverSeveralMappingsIsCutWhereTheyMeet) {
  constexpr uint64_t kPages = 1000;
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, kPages}, false);
  provider.seal();
  PagerRig rig(provider, {.fill_before_resume = false});
  Toy toy(rig.criu(), kSpace, kPages, []() -> int {
    for (uint64_t i = 0; i < kPages; i += 37) ::mprotect(toy_page(i), 5 * kPageSize, PROT_READ);
    ::usleep(200000);
    for (uint64_t i = 0; i < kPages; ++i)
      if (!right(i, toy_page(i))) return 1;
    return 0;
  });
  rig.take_tasks(1);
  toy.wait_registered();
  rig.pager().restore_ended();
  toy.go();
  ::usleep(50000);
  rig.pager().running();
  EXPECT_TRUE(rig.wait_complete());
  EXPECT_EQ(rig.pager().stats().unregistered_pages, 0u);
  EXPECT_EQ(toy.wait(), 0);
}

}  // namespace
}  // namespace mose::test
