// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "model/page_set.h"

namespace mose {
namespace {

using Pages = std::set<uint64_t>;

Pages pages_of(const PageSet& set) {
  Pages pages;
  for (const PageRun& run : set.runs()) {
    for (uint64_t page = run.first; page < run.end(); ++page) pages.insert(page);
  }
  return pages;
}

// Sorted, disjoint, not empty, and never two runs that could be one.
void expect_canonical(const PageSet& set) {
  for (size_t i = 0; i < set.runs().size(); ++i) {
    ASSERT_GT(set.runs()[i].count, 0u);
    if (i > 0) {
      ASSERT_GT(set.runs()[i].first, set.runs()[i - 1].end());
    }
  }
}

TEST(PageSet, NeighboursBecomeOneRun) {
  PageSet set;
  set.add({10, 2});
  set.add({12, 3});
  set.add({8, 2});
  EXPECT_EQ(set.runs(), (std::vector<PageRun>{{8, 7}}));
}

TEST(PageSet, ARunThatBridgesManySwallowsThem) {
  PageSet set = PageSet::from_runs({{1, 1}, {3, 1}, {5, 1}, {9, 1}});
  set.add({2, 5});
  EXPECT_EQ(set.runs(), (std::vector<PageRun>{{1, 6}, {9, 1}}));
}

TEST(PageSet, AnEmptyRunIsNothing) {
  PageSet set;
  set.add({7, 0});
  EXPECT_TRUE(set.empty());
  set.add({7, 1});
  set.remove({7, 0});
  EXPECT_EQ(set.pages(), 1u);
}

TEST(PageSet, RunFromIsCutToStartAtThePage) {
  PageSet set = PageSet::from_runs({{10, 5}});
  EXPECT_EQ(set.run_from(12), (PageRun{12, 3}));
  EXPECT_EQ(set.run_from(9).count, 0u);
  EXPECT_EQ(set.run_from(15).count, 0u);
  EXPECT_EQ(PageSet{}.run_from(0).count, 0u);
}

TEST(PageSet, HoldsTheHighestPagesOfAnAddressSpace) {
  constexpr uint64_t kLast = (uint64_t{1} << 52) - 1;
  PageSet set;
  set.add({kLast, 1});
  EXPECT_TRUE(set.contains(kLast));
  EXPECT_FALSE(set.contains(kLast - 1));
  EXPECT_TRUE(set.minus(set).empty());
}

TEST(PageSet, DoesWhatASetOfNumbersDoes) {
  constexpr uint64_t kSpace = 200;  // small, so that runs meet in every way
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed);
    auto run = [&] { return PageRun{random() % kSpace, random() % 12}; };
    PageSet set, other;
    Pages model, other_model;
    for (int i = 0; i < 150; ++i) {
      PageRun r = run();
      bool into_other = random() % 3 == 0;
      bool add = random() % 3 != 0;
      PageSet& target = into_other ? other : set;
      Pages& target_model = into_other ? other_model : model;
      add ? target.add(r) : target.remove(r);
      for (uint64_t page = r.first; page < r.end(); ++page) {
        if (add) {
          target_model.insert(page);
        } else {
          target_model.erase(page);
        }
      }
      ASSERT_NO_FATAL_FAILURE(expect_canonical(target)) << "seed " << seed;
      ASSERT_EQ(pages_of(target), target_model) << "seed " << seed;
      ASSERT_EQ(target.pages(), target_model.size());
      ASSERT_EQ(target.empty(), target_model.empty());
    }
    for (uint64_t page = 0; page < kSpace + 12; ++page) ASSERT_EQ(set.contains(page), model.contains(page));
    Pages minus, intersect, unite = model;
    for (uint64_t page : model) (other_model.contains(page) ? intersect : minus).insert(page);
    unite.insert(other_model.begin(), other_model.end());
    for (const PageSet& result : {set.minus(other), set.intersect(other), set.unite(other)}) {
      ASSERT_NO_FATAL_FAILURE(expect_canonical(result)) << "seed " << seed;
    }
    ASSERT_EQ(pages_of(set.minus(other)), minus) << "seed " << seed;
    ASSERT_EQ(pages_of(set.intersect(other)), intersect) << "seed " << seed;
    ASSERT_EQ(pages_of(set.unite(other)), unite) << "seed " << seed;
    ASSERT_EQ(set.minus(other).unite(set.intersect(other)), set) << "one form per set";
  }
}

TEST(PageSet, FromRunsTakesThemInAnyOrder) {
  std::mt19937_64 random(3);
  std::vector<PageRun> runs;
  Pages model;
  for (int i = 0; i < 500; ++i) {
    PageRun r{random() % 5000, random() % 20};
    runs.push_back(r);
    for (uint64_t page = r.first; page < r.end(); ++page) model.insert(page);
  }
  PageSet set = PageSet::from_runs(runs);
  expect_canonical(set);
  EXPECT_EQ(pages_of(set), model);
}

}  // namespace
}  // namespace mose
