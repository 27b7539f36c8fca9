// SPDX-License-Identifier: MIT
#include <sys/mman.h>
#include <sys/wait.h>

#include <thread>

#include "netns/pager/harness.h"

namespace mose::test {
namespace {

constexpr uint64_t kSalt = 0x5151;
constexpr SpaceId kSpace = 42;

class PagerFaults : public testing::Test {
 protected:
  static void SetUpTestSuite() { require_userfaultfd(); }
};

// Every page of [0, pages) is right: present ones as written, others zero. The number of the first wrong page + 1, or
// 0.
int check_all(uint64_t pages, const PageSet& present) {
  for (uint64_t i = 0; i < pages; ++i) {
    bool right = present.contains(kToyPage + i) ? page_is(kSalt, kToyPage + i, toy_page(i)) : page_is_zero(toy_page(i));
    if (!right) return 1;
  }
  return 0;
}

restore::PagerPolicy without_fill() {
  return {.fill_before_resume = false};
}

TEST_F(PagerFaults, LocalPagesAreServedOnFaultAndTheRestIsZero) {
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, 100}, false);
  provider.add(kSpace, {kToyPage + 150, 1}, false);
  provider.seal();
  PagerRig rig(provider, without_fill());
  PageSet present = provider.present(kSpace);
  Toy toy(rig.criu(), kSpace, 256, [&] { return check_all(256, present); });
  rig.take_tasks(1);
  toy.wait_registered();
  toy.go();
  EXPECT_EQ(toy.wait(), 0);
  auto stats = rig.pager().stats();
  EXPECT_EQ(stats.present_pages, 101u);
  EXPECT_EQ(stats.installed_pages, 101u);
  EXPECT_GE(stats.faults, 7u);
  EXPECT_GE(stats.zero_faults, 1u);
  EXPECT_EQ(stats.remote_faults, 0u);
}

// Pages that follow one another in memory need not lie in one mapping, and one ioctl takes only what does: neighbours
// that are brought along with a fault must not keep the page itself from coming in.
TEST_F(PagerFaults, NeighboursInTheNextMappingDoNotHoldUpAFault) {
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, 96}, false);
  provider.seal();
  PagerRig rig(provider, without_fill());
  Toy toy(rig.criu(), kSpace, 256, [&] {
    // Boundaries at 35 and 37, and one at 200 among pages that were never there.
    if (::mprotect(toy_page(35), 2 * kPageSize, PROT_READ) != 0) return 1;
    if (::mprotect(toy_page(200), kPageSize, PROT_READ) != 0) return 1;
    for (uint64_t i : {34, 36, 37})
      if (!page_is(kSalt, kToyPage + i, toy_page(i))) return 2;
    *reinterpret_cast<volatile char*>(toy_page(199)) = 1;
    return page_is_zero(toy_page(200)) ? 0 : 3;
  });
  rig.take_tasks(1);
  toy.wait_registered();
  toy.go();
  EXPECT_EQ(toy.wait(), 0);
  // 34 with 35 and 36 around it, 37 with its neighbours, a write into 199, a read of 200: nothing is asked for twice.
  EXPECT_LE(rig.pager().stats().faults, 5u);
}

TEST_F(PagerFaults, RemotePagesAreAskedForAndTheThreadWaits) {
  FakeProvider provider(kSalt, std::chrono::milliseconds(1));
  provider.add(kSpace, {kToyPage, 64}, true);
  provider.seal();
  PagerRig rig(provider, without_fill());
  PageSet present = provider.present(kSpace);
  Toy toy(rig.criu(), kSpace, 64, [&] { return check_all(64, present); });
  rig.take_tasks(1);
  toy.wait_registered();
  toy.go();
  EXPECT_EQ(toy.wait(), 0);
  // In order, so that at most 16 come with one.
  EXPECT_GE(provider.requests(), 4u);
  EXPECT_GE(rig.pager().stats().remote_faults, 4u);
}

TEST_F(PagerFaults, NothingIsAnsweredBeforeTheMapIsSealed) {
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, 16}, false);
  PagerRig rig(provider);
  Toy toy(rig.criu(), kSpace, 32,
          [&] { return page_is(kSalt, kToyPage + 3, toy_page(3)) && page_is_zero(toy_page(20)) ? 0 : 1; });
  rig.take_tasks(1);
  toy.wait_registered();
  toy.go();
  EXPECT_FALSE(toy.ended_within(std::chrono::milliseconds(100)));
  provider.seal();
  EXPECT_EQ(toy.wait(), 0);
}

TEST_F(PagerFaults, NothingIsAnsweredWhilePaused) {
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, 16}, false);
  provider.seal();
  PagerRig rig(provider);
  Toy toy(rig.criu(), kSpace, 32,
          [&] { return page_is(kSalt, kToyPage + 3, toy_page(3)) && page_is_zero(toy_page(20)) ? 0 : 1; });
  rig.pager().pause();
  rig.take_tasks(1);
  toy.wait_registered();
  toy.go();
  EXPECT_FALSE(toy.ended_within(std::chrono::milliseconds(100)));
  EXPECT_EQ(rig.pager().stats().installed_pages, 0u);
  rig.pager().resume();
  EXPECT_EQ(toy.wait(), 0);
}

TEST_F(PagerFaults, FillBringsEverythingWithoutAnyFaultAndTheDescriptorCloses) {
  FakeProvider provider(kSalt, {});
  constexpr uint64_t kPages = 5000;
  provider.add(kSpace, {kToyPage + 3, kPages - 3}, false);
  provider.seal();
  PagerRig rig(provider);
  PageSet present = provider.present(kSpace);
  Toy toy(rig.criu(), kSpace, kPages, [&] { return check_all(kPages, present); });
  rig.take_tasks(1);
  toy.wait_registered();
  EXPECT_FALSE(rig.completed()) << "not before the restore has ended";
  rig.pager().restore_ended();
  ASSERT_TRUE(rig.wait_complete());
  EXPECT_EQ(rig.pager().stats().installed_pages, kPages - 3);
  EXPECT_EQ(rig.pager().stats().unregistered_pages, 0u);
  toy.go();
  EXPECT_EQ(toy.wait(), 0);
  EXPECT_EQ(rig.pager().stats().faults, 0u);
}

TEST_F(PagerFaults, PagesThatNoDescriptorCoversAreCountedAndHoldNothingUp) {
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage - 10, 20}, false);
  provider.seal();
  PagerRig rig(provider);
  Toy toy(rig.criu(), kSpace, 10, [] { return page_is(kSalt, kToyPage, toy_page(0)) ? 0 : 1; });
  rig.take_tasks(1);
  toy.wait_registered();
  rig.pager().restore_ended();
  ASSERT_TRUE(rig.wait_complete());
  EXPECT_EQ(rig.pager().stats().unregistered_pages, 10u);
  toy.go();
  EXPECT_EQ(toy.wait(), 0);
}

TEST_F(PagerFaults, ManyThreadsAgainstFillAndLateRemotePages) {
  constexpr uint64_t kPages = 8192;
  for (int round = 0; round < 3; ++round) {
    FakeProvider provider(kSalt, std::chrono::microseconds(200));
    // Alternating runs, so that local and remote pages meet within one fault-around.
    for (uint64_t i = 0; i + 7 < kPages; i += 7) provider.add(kSpace, {kToyPage + i, 6}, i % 3 == 0);
    provider.seal();
    PagerRig rig(provider, {.servers = 2});
    PageSet present = provider.present(kSpace);
    Toy toy(rig.criu(), kSpace, kPages, [&]() -> int {
      std::atomic<int> bad{0};
      std::vector<std::thread> threads;
      for (uint64_t t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
          for (uint64_t i = 0; i < kPages; ++i) {
            uint64_t at = (i * 2654435761 + t * 1000) % kPages;
            bool is = present.contains(kToyPage + at);
            if (is ? !page_is(kSalt, kToyPage + at, toy_page(at)) : !page_is_zero(toy_page(at))) ++bad;
          }
        });
      for (auto& thread : threads) thread.join();
      return bad == 0 ? 0 : 1;
    });
    rig.run(toy);
    EXPECT_EQ(toy.wait(), 0);
    // Its pages need nobody any more: the descriptor of a process that is gone is dropped.
    for (uint64_t i = 0; i + 7 < kPages; i += 7) provider.push(kSpace, {kToyPage + i, 6});
    EXPECT_TRUE(rig.wait_complete());
  }
}

TEST_F(PagerFaults, AProcessThatDiesHalfWayIsDropped) {
  FakeProvider provider(kSalt, {});
  provider.add(kSpace, {kToyPage, 4096}, false);
  provider.seal();
  PagerRig rig(provider, without_fill());
  Toy toy(rig.criu(), kSpace, 4096, [] { return 7; });
  rig.take_tasks(1);
  toy.wait_registered();
  rig.pager().restore_ended();
  toy.go();
  EXPECT_EQ(toy.wait(), 7);
  rig.pager().running();
  EXPECT_TRUE(rig.wait_complete());
}

TEST_F(PagerFaults, SeveralSpacesAndAZombie) {
  FakeProvider provider(kSalt, {});
  for (SpaceId space : {2u, 3u, 4u}) provider.add(space, {kToyPage, 100 * space}, false);
  provider.seal();
  PagerRig rig(provider, {.servers = 2});
  std::vector<std::unique_ptr<Toy>> toys;
  for (int32_t space : {2, 3, 4}) {
    PageSet present = provider.present(static_cast<SpaceId>(space));
    toys.push_back(std::make_unique<Toy>(rig.criu(), space, 512, [present] { return check_all(512, present); }));
    rig.take_tasks(1);
  }
  send_word(rig.criu(), -5);
  for (auto& toy : toys) toy->wait_registered();
  rig.pager().restore_ended();
  for (auto& toy : toys) toy->go();
  for (auto& toy : toys) EXPECT_EQ(toy->wait(), 0);
  EXPECT_TRUE(rig.wait_complete());
}

}  // namespace
}  // namespace mose::test
