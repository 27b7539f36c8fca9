// SPDX-License-Identifier: MIT
// Which pages are hot is told by the rounds that found them written, and what cools down is forgotten.
#include "model/page_heat.h"

#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <map>
#include <random>

namespace mose {
namespace {

PageSet runs(std::vector<PageRun> list) {
  return PageSet::from_runs(std::move(list));
}

TEST(PageHeat, OfMoreRoundsIsHotter) {
  PageHeat heat;
  EXPECT_TRUE(heat.levels().empty());
  heat.next_round(runs({{100, 10}, {500, 10}}));
  heat.next_round(runs({{505, 10}}));
  EXPECT_EQ(heat.levels(), (std::vector<PageSet>{runs({{505, 5}}), runs({{100, 10}, {500, 5}, {510, 5}})}));
}

TEST(PageHeat, IsForgottenAfterItsRounds) {
  PageHeat heat;
  heat.next_round(runs({{1, 1}}));
  for (int round = 1; round < PageHeat::kRounds; ++round) {
    heat.next_round({});
    EXPECT_EQ(heat.levels().size(), 1u) << round;
  }
  heat.next_round({});
  EXPECT_TRUE(heat.levels().empty());
}

TEST(PageHeat, AddsWhatElseWasSeen) {
  PageHeat heat;
  heat.next_round(runs({{10, 10}}));
  const std::vector<PageHeat::Stretch> seen{{{0, 2}, 0b101}, {{15, 10}, 0b10000000}};
  EXPECT_EQ(heat.levels(seen), (std::vector<PageSet>{runs({{0, 2}, {15, 5}}), runs({{10, 5}, {20, 5}})}));
}

// Against counting page by page.
TEST(PageHeat, CountsLikeATableOfPages) {
  std::mt19937 random(3);
  PageHeat heat;
  std::map<uint64_t, uint8_t> table;
  for (int round = 0; round < 40; ++round) {
    PageSet written;
    for (int i = 0; i < 12; ++i) written.add({random() % 300, 1 + random() % 20});
    heat.next_round(written);
    for (uint64_t page = 0; page < 400; ++page)
      table[page] = static_cast<uint8_t>((table[page] << 1) | (written.contains(page) ? 1 : 0));
    std::map<int, PageSet, std::greater<>> expected;
    for (auto [page, rounds] : table) {
      if (rounds != 0) expected[std::popcount(rounds)].add({page, 1});
    }
    std::vector<PageSet> levels;
    for (auto& [count, pages] : expected) levels.push_back(pages);
    ASSERT_EQ(heat.levels(), levels) << round;
  }
}

TEST(PageHeat, OfTooManyStretchesTheCoolestGo) {
  PageSet scattered, few;
  for (uint64_t i = 0; i < PageHeat::kStretchesMax; ++i) scattered.add({3 * i, 1});
  for (uint64_t i = 0; i < 10; ++i) few.add({3 * i, 1});
  PageHeat heat;
  heat.next_round(scattered);
  EXPECT_EQ(heat.levels().size(), 1u) << "as many as it holds";
  few.add({3 * PageHeat::kStretchesMax, 1});
  heat.next_round(few);
  few.remove({3 * PageHeat::kStretchesMax, 1});
  EXPECT_EQ(heat.levels(), std::vector<PageSet>{few}) << "one too many: those of one round are forgotten";
}

}  // namespace
}  // namespace mose
