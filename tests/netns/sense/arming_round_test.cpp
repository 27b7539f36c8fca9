// SPDX-License-Identifier: MIT
// The round in which write protection begins, against what happens to pages between its looks: no page that counts as
// sent may differ from what was sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "kernel/pagemap.h"
#include "kernel/procfs.h"
#include "netns/sense/sense_bed.h"
#include "sense/write_scan.h"

namespace mose::sense {
namespace {

using test::Actor;
using test::fill;
using test::map_at;
using test::Reserved;
using test::SentPages;

constexpr size_t kPage = 4096;
constexpr size_t kPages = 512;

// Does something after the first pages were sent.
class Meanwhile final : public PageSink {
 public:
  Meanwhile(SentPages& sent, std::function<void()> act) : sent_(sent), act_(std::move(act)) {}
  Status send_pages(SpaceId space, std::span<const PageRun> runs,
                    std::span<const std::span<const std::byte>> pieces) override {
    auto status = sent_.send_pages(space, runs, pieces);
    if (act_) std::exchange(act_, nullptr)();
    return status;
  }

 private:
  SentPages& sent_;
  std::function<void()> act_;
};

// Does something once that page has been sent.
class Behind final : public PageSink {
 public:
  Behind(SentPages& sent, SpaceId space, uint64_t page, std::function<void()> act) : sent_(sent), space_(space), page_(page), act_(std::move(act)) {}
  Status send_pages(SpaceId space, std::span<const PageRun> runs, std::span<const std::span<const std::byte>> pieces) override {
    auto status = sent_.send_pages(space, runs, pieces);
    const bool sent = space == space_ && std::ranges::any_of(runs, [&](const PageRun& run) { return run.first <= page_ && page_ < run.end(); });
    if (sent && act_) std::exchange(act_, nullptr)();
    return status;
  }
  [[nodiscard]] bool done() const { return !act_; }

 private:
  SentPages& sent_;
  const SpaceId space_;
  const uint64_t page_;
  std::function<void()> act_;
};

// Pages are protected when their turn to be read has come.
TEST(TheArmingRound, MissesNothingThatIsWrittenWhileItRuns) {
  for (bool huge : {false, true}) {
    SCOPED_TRACE(huge ? "huge pages" : "small pages");
    malloc_trim(0);
    const Reserved region(kPages * kPage);
    char* const at = region.at;
    const uint64_t first = reinterpret_cast<uint64_t>(at) / kPage;
    Actor actor({[&] {
                   map_at(at, kPages * kPage);
                   madvise(at, kPages * kPage, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
                   fill(at, kPages * kPage, 1);
                   if (!huge) madvise(at + 7 * kPage, kPage, MADV_DONTNEED);
                 },
                 [&] {
                   for (uint64_t page = 0; page < kPages; page += 64) at[page * kPage] ^= 1;
                   if (!huge) fill(at + 7 * kPage, kPage, 3);
                 }});
    actor.step();
    WriteScan source({.late = false});
    SentPages sent;
    bool written = false;
    Meanwhile sink(sent, [&] {
      actor.step();
      written = true;
    });
    const PageSet region_pages = PageSet::from_runs({{first, kPages}});
    auto whole_pages = [&] {
      return Pagemap::open(actor.pid()).value().tracked(region_pages).value().huge.pages();
    };
    if (huge && whole_pages() == 0) continue;  // there was none to be had
    ASSERT_TRUE(source.round(actor.spaces(), sink, {}));
    ASSERT_TRUE(written);
    actor.freeze();
    auto final = source.final_scan(actor.spaces());
    ASSERT_TRUE(final) << final.error().what;
    EXPECT_EQ(source.name(), "write-protection") << source.reason();
    EXPECT_LT(final->stats.pages_read, kPages / 2);
    EXPECT_THAT(sent.wrong_pages(*final, actor.spaces()), testing::IsEmpty());
    const PageSet& remote = final->spaces.front().remote;
    EXPECT_FALSE(remote.intersect(PageSet::from_runs({{first, 1}})).empty()) << "it was read before it was written";
    if (!huge) {
      EXPECT_FALSE(remote.intersect(PageSet::from_runs({{first + 7, 1}})).empty()) << "it was not there before";
    }
  }
}

// One half of it is read at the beginning, the other, which is hot, at the end: it must not be protected again then.
TEST(TheArmingRound, ProtectsAHugePageOnceThoughItIsReadInParts) {
  constexpr size_t kMany = 16384 + 1024;  // more than is protected at a time
  malloc_trim(0);
  const Reserved region(kMany * kPage);
  char* const at = region.at;
  const uint64_t first = reinterpret_cast<uint64_t>(at) / kPage;
  Actor actor({[&] {
                 map_at(at, kMany * kPage);
                 madvise(at, kMany * kPage, MADV_HUGEPAGE);
                 fill(at, kMany * kPage, 1);
               },
               [&] { at[0] ^= 1; }});
  actor.step();
  const auto before = Pagemap::open(actor.pid()).value().tracked(PageSet::from_runs({{first, 512}})).value();
  if (before.huge.pages() != 512) GTEST_SKIP() << "no huge page was to be had";
  WriteScan source({.late = false});
  const SpaceHeat heat{actor.spaces().front().space, {PageSet::from_runs({{first + 256, 256}})}};
  source.read_last({&heat, 1});
  SentPages sent;
  Meanwhile sink(sent, [&] { actor.step(); });
  ASSERT_TRUE(source.round(actor.spaces(), sink, {}));
  actor.freeze();
  auto final = source.final_scan(actor.spaces());
  ASSERT_TRUE(final) << final.error().what;
  EXPECT_EQ(source.name(), "write-protection") << source.reason();
  EXPECT_THAT(sent.wrong_pages(*final, actor.spaces()), testing::IsEmpty());
  EXPECT_FALSE(final->spaces.front().remote.intersect(PageSet::from_runs({{first, 1}})).empty());
}

// The kernel goes through what it protects in steps, each of which would end within a huge page if the first began before it.
TEST(TheArmingRound, BreaksUpNoHugePageBehindSmallOnes) {
  constexpr size_t kSmall = 100, kFirstHuge = 512, kMany = kFirstHuge + 16 * 512;
  malloc_trim(0);
  const Reserved region(kMany * kPage);
  char* const at = region.at;
  const PageSet pages = PageSet::from_runs({{reinterpret_cast<uint64_t>(at) / kPage, kMany}});
  Actor actor({[&] {
    map_at(at, kMany * kPage);
    madvise(at, kFirstHuge * kPage, MADV_NOHUGEPAGE);
    madvise(at + kFirstHuge * kPage, (kMany - kFirstHuge) * kPage, MADV_HUGEPAGE);
    fill(at + (kFirstHuge - kSmall) * kPage, (kMany - kFirstHuge + kSmall) * kPage, 1);
  }});
  actor.step();
  const PageSet before = Pagemap::open(actor.pid()).value().tracked(pages).value().huge;
  if (before.pages() < 8 * 512) GTEST_SKIP() << "no huge pages were to be had";
  WriteScan source({.late = false});
  SentPages sent;
  ASSERT_TRUE(source.round(actor.spaces(), sent, {}));
  const Pagemap::Tracked after = Pagemap::open(actor.pid()).value().tracked(pages).value();
  EXPECT_EQ(after.huge, before);
  EXPECT_EQ(after.clean.pages(), kMany - kFirstHuge + kSmall);
}

// Hot pages between cold ones: a page of every stride, found written in the round before and written again since.
class HotPages : public ::testing::Test {
 protected:
  explicit HotPages(WriteScanOptions options = {}) : source_(std::move(options)) {}
  static constexpr size_t kMany = 34200;  // what is protected at a time, twice, and what is hot by itself
  void begin(size_t stride, std::function<void()> meanwhile, const std::function<void(char*)>& elsewhere = [](char*) {},
             std::function<void()> later = [] {}) {
    malloc_trim(0);
    region_ = std::make_unique<Reserved>(kMany * kPage);
    char* const at = region_->at;
    for (uint64_t page = 0; page < kMany; page += stride) hot_.add({first() + page, 1});
    actor_ = std::make_unique<Actor>(std::vector<std::function<void()>>{[at] {
                                       map_at(at, kMany * kPage);
                                       madvise(at, kMany * kPage, MADV_NOHUGEPAGE);
                                       fill(at, kMany * kPage, 1);
                                     },
                                     [at, stride, elsewhere] {
                                       for (uint64_t page = 0; page < kMany; page += stride) at[page * kPage] ^= 1;
                                       at[kPage] ^= 1;  // a cold one, which is sent before them
                                       elsewhere(at);
                                     },
                                     std::move(meanwhile), std::move(later)});
    actor_->step();
    ASSERT_TRUE(source_.round(actor_->spaces(), sent_, {}));
    actor_->step();
    heat_ = {actor_->spaces().front().space, {hot_}};
    source_.read_last({&heat_, 1});
    source_.expect_last();
  }
  void close(std::function<void()> act, const std::function<void()>& behind = [] {}) {
    Meanwhile sink(sent_, std::move(act));
    ASSERT_TRUE(source_.round(actor_->spaces(), sink, {}));
    behind();
    actor_->freeze();
    auto final = source_.final_scan(actor_->spaces());
    ASSERT_TRUE(final) << final.error().what;
    EXPECT_EQ(source_.name(), "write-protection") << source_.reason();
    EXPECT_THAT(sent_.wrong_pages(*final, actor_->spaces()), testing::IsEmpty());
    remote_ = final->spaces.front().remote;
  }
  [[nodiscard]] uint64_t first() const { return reinterpret_cast<uint64_t>(region_->at) / kPage; }
  [[nodiscard]] PageSet protected_pages() const {
    return Pagemap::open(actor_->pid()).value().tracked(PageSet::from_runs({{first(), kMany}})).value().clean;
  }
  std::unique_ptr<Reserved> region_;
  std::unique_ptr<Actor> actor_;
  PageSet hot_, remote_;
  SpaceHeat heat_;
  WriteScan source_;
  SentPages sent_;
};

TEST_F(HotPages, AreNotProtectedWithTheirNeighbours) {
  begin(64, [] {});
  PageSet among_cold;
  close([&] { among_cold = protected_pages(); });
  EXPECT_GT(among_cold.pages(), kMany / 3);
  EXPECT_EQ(among_cold.intersect(hot_), PageSet());
  EXPECT_EQ(protected_pages().intersect(hot_), PageSet()) << "nor by themselves";
  EXPECT_GT(protected_pages().pages(), kMany - hot_.pages() - 10);
  EXPECT_EQ(remote_.intersect(hot_), PageSet()) << "nobody has written to them since they were sent";
}

// It would have the workload pay for all of them, shortly before the freeze.
TEST_F(HotPages, AreLeftUnprotectedInARoundBehindAsWell) {
  auto write_again = [this] {
    for (const PageRun& run : hot_.runs()) *reinterpret_cast<char*>(run.first * kPage) ^= 3;
    region_->at[kPage] ^= 3;
  };
  begin(64, write_again);
  ASSERT_TRUE(source_.round(actor_->spaces(), sent_, {}));
  actor_->step();
  close([] {});
  EXPECT_EQ(protected_pages().intersect(hot_), PageSet());
  EXPECT_GT(protected_pages().pages(), kMany - hot_.pages() - 10);
  EXPECT_EQ(remote_.intersect(hot_), PageSet());
}

class HotPagesOfCheapFaults : public HotPages {
 protected:
  HotPagesOfCheapFaults() : HotPages({.dear = false}) {}
};

TEST_F(HotPagesOfCheapFaults, AreProtectedInARoundBehind) {
  begin(64, [this] {
    for (const PageRun& run : hot_.runs()) *reinterpret_cast<char*>(run.first * kPage) ^= 3;
  });
  ASSERT_TRUE(source_.round(actor_->spaces(), sent_, {}));
  EXPECT_EQ(protected_pages().intersect(hot_), PageSet()) << "not by the round that reads everything";
  actor_->step();
  close([] {});
  EXPECT_EQ(protected_pages().intersect(hot_), hot_);
  EXPECT_EQ(remote_.intersect(hot_), PageSet());
}

// What is read in such a round has been written, all of it.
TEST_F(HotPages, OfALevelThatIsHardlyWrittenAreProtectedInARoundBehind) {
  begin(64, [this] {
    for (const PageRun& run : hot_.runs()) *reinterpret_cast<char*>(run.first * kPage) ^= 3;
  });
  heat_.levels = {PageSet::from_runs({{first(), kMany}})};
  source_.read_last({&heat_, 1});
  ASSERT_TRUE(source_.round(actor_->spaces(), sent_, {}));
  actor_->step();
  close([] {});
  EXPECT_EQ(protected_pages().intersect(hot_), hot_);
}

// To leave them out takes time, in which the workload pays for all that it writes elsewhere.
TEST_F(HotPages, AreProtectedWhereMuchIsWrittenElsewhere) {
  begin(64, [] {}, [](char* at) {
    for (uint64_t page = 8; page < kMany; page += 16) at[page * kPage] ^= 1;
  });
  close([] {});
  EXPECT_EQ(protected_pages().pages(), kMany);
}

// As of a heap in huge pages, or of memory that was asked for and is not used yet.
TEST_F(HotPages, AreSparedThoughMuchIsThereThatIsAllZero) {
  constexpr size_t kZero = 20000;
  const Reserved zero(kZero * kPage);
  begin(64, [] {}, [at = zero.at](char*) {
    map_at(at, kZero * kPage);
    madvise(at, kZero * kPage, MADV_NOHUGEPAGE);
    for (size_t page = 0; page < kZero; ++page) *const_cast<volatile char*>(at + page * kPage) = 0;
  });
  close([] {});
  EXPECT_EQ(protected_pages().intersect(hot_), PageSet());
}

// In a round behind the one that protects everything, what is read lies between pages that are not: those are protected with it.
TEST_F(HotPages, BetweenPagesThatAreWrittenWhileTheyAreProtectedHideNoWrite) {
  constexpr uint64_t kStride = 4;
  begin(
      kMany,
      [this] {
        for (uint64_t page = 0; page < kMany; page += kStride) region_->at[page * kPage] ^= 3;
      },
      [](char*) {},
      [this] {
        for (uint64_t page = 2; page < kMany; page += kStride) region_->at[page * kPage] ^= 3;
      });
  heat_.levels.clear();
  source_.read_last({&heat_, 1});
  ASSERT_TRUE(source_.round(actor_->spaces(), sent_, {}));
  actor_->step();
  close([this] { actor_->step(); });
}

TEST_F(HotPages, AreFoundBehindThoseThatWereHotBefore) {
  begin(64, [] {});
  heat_.levels.insert(heat_.levels.begin(), PageSet::from_runs({{first() + 2, 20}}));
  source_.read_last({&heat_, 1});
  close([] {});
  EXPECT_EQ(protected_pages().intersect(hot_), PageSet());
  EXPECT_EQ(protected_pages().intersect(heat_.levels.front()), heat_.levels.front()) << "nobody has written to them since they were sent";
}

// More than are compared where the kernel has a record of them.
TEST_F(HotPages, AreComparedInTheFreezeHoweverMany) {
  begin(16, [this] {
    for (uint64_t page = 0; page < kMany; page += 32) region_->at[page * kPage] ^= 3;
  });
  PageSet again;
  for (uint64_t page = 0; page < kMany; page += 32) again.add({first() + page, 1});
  ASSERT_GT(again.pages(), 1024u);
  close([] {}, [&] { actor_->step(); });
  EXPECT_EQ(remote_.intersect(hot_), again);
}

// They are read without a look at whether they are there, in mappings that are large enough for the quick look.
TEST_F(HotPages, ThatHaveGoneAreNothingThatCouldNotBeRead) {
  constexpr int kGuardInstall = 102;  // Linux 6.13; on kernels without it the page stays as it is
  constexpr uint64_t kUnmapped = 64 * 532, kMappedAnew = 64 * 533;  // behind the others: they cut the mapping
  begin(64, [this] {
    char* const at = region_->at;
    madvise(at, kPage, MADV_DONTNEED);
    madvise(at + 128 * kPage, kPage, kGuardInstall);
    madvise(at + 192 * kPage, kPage, MADV_DONTNEED);
    at[192 * kPage] = 7;
    memset(at + 256 * kPage, 0, kPage);
    munmap(at + kUnmapped * kPage, kPage);
    mmap(at + kMappedAnew * kPage, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    at[kMappedAnew * kPage] = 8;
  });
  close([] {}, [&] {
    EXPECT_EQ(protected_pages().intersect(hot_), PageSet());
    actor_->step();
  });
  EXPECT_EQ(remote_.intersect(hot_), PageSet::from_runs({{first() + 192, 1}, {first() + kMappedAnew, 1}}));
}

// There are too many to leave each of them out: their neighbours are protected once more with them, though they were written since.
TEST_F(HotPages, ProtectedInStretchesHideNoWriteToWhatLiesBetween) {
  begin(16, [this] {
    for (uint64_t page = 1; page < kMany; page += 16) region_->at[page * kPage] ^= 1;
    for (uint64_t page = 0; page < kMany; page += 48) region_->at[page * kPage] ^= 3;
  });
  PageSet among_cold;
  close([&] {
    among_cold = protected_pages();
    actor_->step();
  });
  EXPECT_FALSE(among_cold.intersect(hot_).empty()) << "each could be left out: nothing was tested";
}

// A page that could not be read says nothing of the others that were read with it.
TEST(TheArmingRound, AZeroedPageBesideOneThatIsGoneIsNotWhatWasSentBefore) {
  malloc_trim(0);
  const Reserved region(kPages * kPage);
  char* const at = region.at;
  const uint64_t first = reinterpret_cast<uint64_t>(at) / kPage;
  Actor actor({[&] {
                 map_at(at, kPages * kPage);
                 madvise(at, kPages * kPage, MADV_NOHUGEPAGE);
                 fill(at, kPages * kPage, 1);
               },
               [&] {
                 fill(at, kPage, 2);  // the first that is sent in the next round
                 memset(at + 300 * kPage, 0, kPage);
               },
               [&] { munmap(at + 301 * kPage, kPage); }});
  actor.step();
  WriteScan source;
  SentPages sent;
  ASSERT_TRUE(source.round(actor.spaces(), sent, {}));
  actor.step();
  bool unmapped = false;
  Meanwhile sink(sent, [&] {
    actor.step();
    unmapped = true;
  });
  source.expect_last();
  ASSERT_TRUE(source.round(actor.spaces(), sink, {}));
  ASSERT_TRUE(unmapped);
  actor.freeze();
  auto final = source.final_scan(actor.spaces());
  ASSERT_TRUE(final) << final.error().what;
  EXPECT_EQ(source.name(), "write-protection") << source.reason();
  EXPECT_THAT(sent.wrong_pages(*final, actor.spaces()), testing::IsEmpty());
  const SpacePages& space = final->spaces.front();
  EXPECT_TRUE(space.present.intersect(PageSet::from_runs({{first + 300, 2}})).empty()) << "one is zero, one is gone";
}

// It has the pages of its parent, which have been read before its turn comes, and the kernel would protect them again.
TEST(TheArmingRound, WhoIsBetweenVforkAndExecHidesNoWriteOfItsParent) {
  malloc_trim(0);
  const Reserved region(kPages * kPage);
  char* const at = region.at;
  const uint64_t first = reinterpret_cast<uint64_t>(at) / kPage;
  auto* const child = static_cast<volatile pid_t*>(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  Actor actor({[&] {
                 map_at(at, kPages * kPage);
                 madvise(at, kPages * kPage, MADV_NOHUGEPAGE);
                 fill(at, kPages * kPage, 1);
                 std::thread([child] {
                   if (::vfork() != 0)
                     for (;;) ::pause();
                   *child = ::getpid();
                   for (;;) ::pause();
                 }).detach();
                 while (*child == 0) ::usleep(100);
               },
               [&] { at[0] ^= 1; }});
  actor.step();
  const std::vector<SpaceProcess> both{actor.spaces().front(), space_of(*child).value()};
  WriteScan source({.late = false});
  SentPages sent;
  Behind sink(sent, both[0].space, first, [&] { actor.step(); });
  ASSERT_TRUE(source.round(both, sink, {}));
  ASSERT_TRUE(sink.done());
  ASSERT_EQ(::kill(*child, SIGKILL), 0);
  actor.freeze();
  auto final = source.final_scan(std::span(both).first(1));
  ASSERT_TRUE(final) << final.error().what;
  EXPECT_EQ(source.name(), "write-protection") << source.reason();
  EXPECT_THAT(sent.wrong_pages(*final, std::span(both).first(1)), testing::IsEmpty());
  EXPECT_FALSE(final->spaces.front().remote.intersect(PageSet::from_runs({{first, 1}})).empty()) << "it was read before it was written";
  ::munmap(const_cast<pid_t*>(child), kPage);
}

}  // namespace
}  // namespace mose::sense
