// SPDX-License-Identifier: MIT
#include "move/page_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

#include "move/codec.h"
#include "stream.h"

namespace mose::move {
namespace {

const MigrationId kId{{9, 8, 7}};
constexpr uint32_t kEpoch = 3;

class Store : public testing::Test {
 protected:
  void make(uint64_t bytes_max = 64u << 20) {
    auto made = PageStore::create(kId, kEpoch, bytes_max);
    ASSERT_TRUE(made) << made.error().what;
    store_ = std::move(*made);
  }
  void SetUp() override { make(); }

  static void write(PageStore::Pending& pending, int value) {
    for (const iovec& part : pending.parts()) memset(part.iov_base, value, part.iov_len);
  }
  std::vector<PageRun> put(std::vector<PageRun> runs, int value, SpaceId space = kSpace) {
    auto pending = store_->prepare(space, std::move(runs));
    EXPECT_TRUE(pending) << pending.error().what;
    write(*pending, value);
    return store_->publish(std::move(*pending));
  }
  Status seal(std::vector<SpacePages> spaces) {
    auto payload = encode_page_map(spaces);
    EXPECT_TRUE(payload);
    return store_->seal(*payload, std::move(spaces));
  }
  static SpacePages pages(std::vector<PageRun> present, std::vector<PageRun> remote, SpaceId space = kSpace) {
    return {space, PageSet::from_runs(std::move(present)), PageSet::from_runs(std::move(remote)), {}};
  }
  int value_at(uint64_t page, SpaceId space = kSpace) {
    auto bytes = store_->contents(space, page, 1);
    return bytes.empty() ? -1 : static_cast<int>(bytes[kPageSize - 1]);
  }
  PagePlace place(uint64_t page) { return store_->place(kSpace, page, 1).place; }

  std::unique_ptr<PageStore> store_;
};

TEST_F(Store, KnowsNothingBeforeItIsSealed) {
  put({{100, 4}}, 1);
  EXPECT_EQ(place(100), PagePlace::unknown);
  EXPECT_TRUE(store_->contents(kSpace, 100, 1).empty());
  EXPECT_TRUE(store_->spaces().empty());
}

TEST_F(Store, TellsPlacesOnceSealed) {
  put({{100, 10}}, 1);
  ASSERT_TRUE(seal({pages({{100, 12}}, {{104, 1}, {110, 2}})}));
  EXPECT_EQ(store_->missing_pages(), 3u);
  EXPECT_EQ(place(99), PagePlace::zero);
  EXPECT_EQ(place(100), PagePlace::local);
  EXPECT_EQ(place(104), PagePlace::remote);
  EXPECT_EQ(place(111), PagePlace::remote);
  EXPECT_EQ(place(112), PagePlace::zero);
  EXPECT_EQ(store_->place(kSpace, 100, 100).count, 4u);
  EXPECT_EQ(store_->place(kSpace, 110, 100).count, 2u);
  EXPECT_EQ(store_->place(kSpace, 90, 100).count, 10u);
  EXPECT_EQ(store_->place(kSpace, 200, 100).count, 100u);
  EXPECT_EQ(store_->place(77, 200, 100).place, PagePlace::zero);
  EXPECT_EQ(store_->missing(kSpace), PageSet::from_runs({{104, 1}, {110, 2}}));
}

TEST_F(Store, APageThatComesAgainReplacesTheOldContentsInPlace) {
  put({{100, 8}}, 1);
  uint64_t used = store_->slots_used();
  put({{102, 1}, {105, 2}}, 2);
  EXPECT_EQ(store_->slots_used(), used);
  ASSERT_TRUE(seal({pages({{100, 8}}, {})}));
  for (uint64_t page = 100; page < 108; ++page) {
    EXPECT_EQ(value_at(page), page == 102 || page == 105 || page == 106 ? 2 : 1) << page;
  }
}

TEST_F(Store, PagesThatArriveTogetherAreReadTogether) {
  put({{100, 512}}, 1);
  put({{700, 3}, {710, 2}}, 2);
  ASSERT_TRUE(seal({pages({{100, 512}, {700, 3}, {710, 2}}, {})}));
  EXPECT_EQ(store_->contents(kSpace, 100, 1000).size(), 512 * kPageSize);
  EXPECT_EQ(store_->contents(kSpace, 130, 64).size(), 64 * kPageSize);
  EXPECT_EQ(store_->contents(kSpace, 700, 100).size(), 3 * kPageSize);
}

TEST_F(Store, RemotePagesBecomeLocalOnceAndNeverChangeAgain) {
  put({{100, 4}}, 1);
  ASSERT_TRUE(seal({pages({{100, 4}}, {{101, 2}})}));
  auto slow = store_->prepare(kSpace, {{101, 1}});
  ASSERT_TRUE(slow);
  EXPECT_EQ(put({{101, 2}}, 2), (std::vector<PageRun>{{101, 2}}));
  EXPECT_EQ(store_->missing_pages(), 0u);
  auto bytes = store_->contents(kSpace, 101, 1);
  write(*slow, 3);
  EXPECT_TRUE(store_->publish(std::move(*slow)).empty());
  EXPECT_TRUE(put({{100, 4}}, 4).empty());
  EXPECT_EQ(bytes[0], std::byte{2});
  EXPECT_EQ(value_at(100), 1);
  EXPECT_EQ(value_at(101), 2);
  EXPECT_EQ(value_at(103), 1);
}

TEST_F(Store, PagesNobodyNamedChangeNothing) {
  ASSERT_TRUE(seal({pages({{100, 1}}, {{100, 1}})}));
  EXPECT_TRUE(put({{500, 1}}, 9).empty());
  EXPECT_EQ(place(500), PagePlace::zero);
  EXPECT_FALSE(store_->prepare(99, {{1, 1}}));
  EXPECT_TRUE(store_->publish_zero(99, std::vector<PageRun>{{1, 1}}).empty());
}

TEST_F(Store, ARemotePageMayTurnOutToBeZero) {
  ASSERT_TRUE(seal({pages({{100, 2}}, {{100, 2}})}));
  EXPECT_EQ(store_->publish_zero(kSpace, std::vector<PageRun>{{99, 2}}), (std::vector<PageRun>{{100, 1}}));
  EXPECT_EQ(place(100), PagePlace::zero);
  EXPECT_EQ(store_->missing_pages(), 1u);
  EXPECT_TRUE(put({{100, 1}}, 1).empty());
  EXPECT_EQ(place(100), PagePlace::zero);
}

TEST_F(Store, AMapThatCountsOnPagesNeverSentIsRefused) {
  put({{100, 2}}, 1);
  Status status = seal({pages({{100, 3}}, {})});
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().what.find("1 pages that were never sent"), std::string::npos) << status.error().what;
}

TEST_F(Store, ASecondMapIsRefused) {
  ASSERT_TRUE(seal({}));
  EXPECT_FALSE(seal({}));
}

TEST_F(Store, StaleSlotsAreUsedAgain) {
  put({{100, 64}}, 1);
  put({{500, 64}}, 1, 6);
  ASSERT_TRUE(seal({pages({{100, 64}}, {{100, 64}})}));
  EXPECT_EQ(store_->slots_used(), 0u);
  put({{100, 64}}, 2);
  EXPECT_EQ(store_->slots_used(), 64u);
  EXPECT_EQ(value_at(163), 2);
}

TEST_F(Store, ThatIsFullSaysSoAndGoesOn) {
  make(16 * kPageSize);
  put({{0, 10}}, 1);
  auto pending = store_->prepare(kSpace, {{100, 7}});
  ASSERT_FALSE(pending);
  EXPECT_EQ(pending.error().code, ENOSPC);
  put({{100, 6}}, 2);
  put({{0, 10}}, 3);  // known pages need no room
  ASSERT_TRUE(seal({pages({{0, 10}, {100, 6}}, {})}));
  EXPECT_EQ(value_at(9), 3);
}

TEST_F(Store, DroppedSlotsAreFreeAgain) {
  make(8 * kPageSize);
  for (int i = 0; i < 5; ++i) {
    auto pending = store_->prepare(kSpace, {{100, 8}});
    ASSERT_TRUE(pending);
    store_->drop(std::move(*pending));
  }
  EXPECT_EQ(store_->slots_used(), 0u);
}

TEST_F(Store, ReservedMemoryIsNotUsedMemory) {
  ASSERT_TRUE(store_->reserve(1ull << 40));  // cut to what the store may hold
  EXPECT_EQ(store_->slots_used(), 0u);
  put({{100, 4}}, 1);
  ASSERT_TRUE(seal({pages({{100, 4}}, {})}));
  EXPECT_EQ(value_at(103), 1);
}

// A page that a pipe still holds shows what was in it when the store let it go.
TEST_F(Store, OverwritesItsPagesBeforeItGivesThemBack) {
  put({{100, 4}}, 7);
  ASSERT_TRUE(seal({pages({{100, 4}}, {})}));
  const std::byte* at = store_->contents(kSpace, 100, 1).data();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Fd reader(ends[0]), writer(ends[1]);
  const iovec page{const_cast<std::byte*>(at), kPageSize};
  ASSERT_EQ(vmsplice(writer.get(), &page, 1, 0), static_cast<ssize_t>(kPageSize));
  auto kept_bytes = [&] {
    struct stat info {};
    EXPECT_EQ(fstat(store_->fds()[0], &info), 0);
    return info.st_blocks * 512;
  };
  EXPECT_GT(kept_bytes(), 0);

  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_GT(store_->wipe(stopped.get_token()), 0u);
  EXPECT_GT(kept_bytes(), 0);
  EXPECT_EQ(store_->wipe({}), 0u);
  EXPECT_EQ(kept_bytes(), 0);
  std::vector<unsigned char> seen(kPageSize, 1);
  ASSERT_EQ(read(reader.get(), seen.data(), seen.size()), static_cast<ssize_t>(kPageSize));
  EXPECT_EQ(std::ranges::count(seen, 0), static_cast<ptrdiff_t>(kPageSize)) << "first byte " << int{seen[0]};
}

TEST_F(Store, TakesPagesWhileMemoryIsReserved) {
  make(4ull << 30);
  Status reserved;
  std::jthread reserving([&](const std::stop_token& stop) { reserved = store_->reserve(4ull << 30, stop); });
  for (uint64_t first = 0; first < 16384; first += 256) put({{first, 256}}, 1);
  reserving.request_stop();
  reserving.join();
  ASSERT_FALSE(reserved) << "the pages have waited for all of it";
  EXPECT_EQ(reserved.error().code, ECANCELED);
  ASSERT_TRUE(seal({pages({{0, 16384}}, {})}));
  EXPECT_EQ(value_at(16383), 1);
}

class AdoptedStore : public Store {
 protected:
  PageStore::Fds take_fds() {
    auto [data, index, map] = store_->fds();
    return {Fd(dup(data)), Fd(dup(index)), Fd(dup(map))};
  }
};

TEST_F(AdoptedStore, HoldsWhatTheFirstOneHad) {
  put({{100, 2000}}, 1);
  put({{5000, 10}}, 2, 6);
  ASSERT_TRUE(seal({pages({{100, 2000}}, {{200, 5}}), pages({{5000, 10}}, {}, 6), pages({}, {}, 7)}));
  put({{201, 1}}, 3);
  auto abandoned = store_->prepare(kSpace, {{202, 1}});  // in the middle of a receive
  auto fds = take_fds();
  store_.reset();

  auto adopted = PageStore::adopt(std::move(fds), kId, kEpoch);
  ASSERT_TRUE(adopted) << adopted.error().what;
  store_ = std::move(*adopted);
  EXPECT_TRUE(store_->sealed());
  EXPECT_EQ(store_->missing(kSpace), PageSet::from_runs({{200, 1}, {202, 3}}));
  EXPECT_EQ(store_->missing_pages(), 4u);
  EXPECT_EQ(value_at(100), 1);
  EXPECT_EQ(value_at(2099), 1);
  EXPECT_EQ(value_at(201), 3);
  EXPECT_EQ(value_at(5009, 6), 2);
  EXPECT_EQ(store_->spaces(), (std::vector<SpaceId>{5, 6}));
  EXPECT_EQ(put({{200, 5}}, 4), (std::vector<PageRun>{{200, 1}, {202, 3}}));
  EXPECT_EQ(store_->missing_pages(), 0u);
  EXPECT_EQ(value_at(201), 3);
}

TEST_F(AdoptedStore, IsRefusedUnsealedForeignOrDamaged) {
  put({{100, 2}}, 1);
  EXPECT_FALSE(PageStore::adopt(take_fds(), kId, kEpoch));
  ASSERT_TRUE(seal({pages({{100, 2}}, {})}));
  EXPECT_TRUE(PageStore::adopt(take_fds(), kId, kEpoch));
  EXPECT_FALSE(PageStore::adopt(take_fds(), MigrationId{}, kEpoch));
  EXPECT_FALSE(PageStore::adopt(take_fds(), kId, kEpoch + 1));
  auto swapped = take_fds();
  std::swap(swapped.data, swapped.index);
  EXPECT_FALSE(PageStore::adopt(std::move(swapped), kId, kEpoch));
  ASSERT_EQ(ftruncate(store_->fds()[2], 3), 0);
  EXPECT_FALSE(PageStore::adopt(take_fds(), kId, kEpoch));
}

// Clearing it would be waited for.
TEST_F(Store, AfterTheSealStalePagesGiveTheirMemoryBeforeNewIsTaken) {
  std::vector<PageRun> scattered;
  for (uint64_t page = 0; page < 4096; page += 2) scattered.push_back({page, 1});
  put({{0, 4096}}, 1);
  ASSERT_TRUE(seal({pages({{0, 4096}}, scattered)}));
  struct stat before {}, after {};
  ASSERT_EQ(fstat(store_->fds()[0], &before), 0);
  put(scattered, 2);
  ASSERT_EQ(fstat(store_->fds()[0], &after), 0);
  EXPECT_EQ(after.st_size, before.st_size);
  EXPECT_EQ(store_->missing_pages(), 0u);
  for (uint64_t page = 0; page < 4096; ++page) {
    ASSERT_EQ(value_at(page), page % 2 == 0 ? 2 : 1) << page;
  }
}

// The account of a standby's pages.
class Staging : public Store {
 protected:
  void SetUp() override {
    Store::SetUp();
    put({{100, 20}}, 1);
    store_->begin_staging();
  }
  size_t stage(uint64_t page, uint64_t max) { return store_->stage(kSpace, page, max).size() / kPageSize; }
  static PageSet set(std::vector<PageRun> runs) { return PageSet::from_runs(std::move(runs)); }
};

TEST_F(Staging, WhatComesAgainIsUnstagedBeforeItsFirstByte) {
  EXPECT_EQ(store_->unstaged(kSpace), set({{100, 20}}));
  EXPECT_EQ(stage(100, 8), 8u);
  EXPECT_EQ(store_->unstaged(kSpace), set({{108, 12}}));
  auto pending = store_->prepare(kSpace, {{104, 2}, {110, 1}});
  ASSERT_TRUE(pending);
  EXPECT_EQ(store_->unstaged(kSpace), set({{104, 2}, {108, 12}}));
  EXPECT_EQ(stage(104, 4), 0u) << "its bytes are on their way";
  EXPECT_EQ(stage(108, 10), 2u) << "up to the next that is";
  write(*pending, 2);
  (void)store_->publish(std::move(*pending));
  EXPECT_EQ(stage(104, 4), 4u);
  EXPECT_EQ(static_cast<int>(store_->stage(kSpace, 104, 1)[0]), 2);
}

TEST_F(Staging, TheSealKeepsWhatIsStagedAndFinal) {
  EXPECT_EQ(stage(100, 20), 20u);
  put({{103, 1}}, 2);
  store_->unstage(kSpace, {106, 1});
  ASSERT_TRUE(seal({pages({{100, 10}, {200, 1}}, {{101, 1}, {200, 1}})}));
  EXPECT_EQ(store_->staged(kSpace), set({{100, 1}, {102, 1}, {104, 2}, {107, 3}}));
  EXPECT_EQ(stage(103, 1), 0u);
  EXPECT_TRUE(store_->unstaged(kSpace).empty());
  put({{101, 1}}, 3);
  EXPECT_FALSE(store_->staged(kSpace).contains(101));
}

// However often it is asked, and in whatever order pages come: what is looked at is less than everything, what is found is not.
TEST_F(Staging, FindsWhatIsUnstagedWhereverItComes) {
  PageSet expected = set({{100, 20}});
  std::mt19937_64 random(1);
  for (int i = 0; i < 3000; ++i) {
    const PageRun run{random() % 2000, 1 + random() % 4};
    switch (random() % 4) {
      case 0:
        put({run}, 1);
        expected.add(run);
        break;
      case 1:
        for (uint64_t page = run.first; page < run.end(); ++page) {
          if (stage(page, 1) == 1) expected.remove({page, 1});
        }
        break;
      case 2:
        for (uint64_t page = run.first; page < run.end(); ++page) {
          if (stage(page, 1) == 0) continue;  // there is none
          store_->unstage(kSpace, {page, 1});
          expected.add({page, 1});
        }
        break;
      default:
        ASSERT_EQ(store_->unstaged(kSpace), expected) << i;
    }
  }
}

TEST_F(Staging, APageWhoseBytesDidNotComeIsNeverStaged) {
  auto pending = store_->prepare(kSpace, {{100, 1}});
  ASSERT_TRUE(pending);
  store_->drop(std::move(*pending));
  EXPECT_EQ(stage(100, 1), 0u);
}

TEST_F(Staging, BeginsAnew) {
  EXPECT_EQ(stage(100, 20), 20u);
  uint64_t news = store_->staging_news();
  store_->begin_staging();
  EXPECT_NE(store_->staging_news(), news);
  EXPECT_EQ(store_->unstaged(kSpace), set({{100, 20}}));
  EXPECT_TRUE(store_->unstaged(77).empty());
  EXPECT_TRUE(store_->stage(77, 100, 1).empty());
}

}  // namespace
}  // namespace mose::move
