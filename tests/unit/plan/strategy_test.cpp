// SPDX-License-Identifier: MIT
// When pre-copy ends, what that makes of the strategy asked for, and what the operator is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "plan/dirty_model.h"
#include "plan/strategy.h"

namespace mose::plan {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

constexpr uint64_t k100Mbit = 100'000'000;

struct Row {
  const char* name;
  RoundFacts facts;
  RoundVerdict verdict;
};
class RoundsEnd : public testing::TestWithParam<Row> {};
TEST_P(RoundsEnd, Or) {
  EXPECT_EQ(after_round(GetParam().facts), GetParam().verdict);
}

INSTANTIATE_TEST_SUITE_P(
    Rounds, RoundsEnd,
    testing::Values(
        Row{"TheFirstIsFollowedByAnother", {.round = 1, .rounds_max = 4, .pages_sent = 50'000}, RoundVerdict::another},
        Row{"LittleWasSent", {.round = 1, .rounds_max = 4, .pages_sent = 4096}, RoundVerdict::small},
        Row{"TheSameIsMuchOnASlowLink",
            {.round = 1, .rounds_max = 4, .pages_sent = 4096, .link_bps = k100Mbit},
            RoundVerdict::another},
        Row{"AsLongAsOnAFastOne",
            {.round = 1, .rounds_max = 4, .pages_sent = 396, .link_bps = k100Mbit},
            RoundVerdict::small},
        Row{"NothingIsEverTooMuch",
            {.round = 2, .rounds_max = 4, .pages_sent = 64, .pages_before = 64, .link_bps = 1},
            RoundVerdict::small},
        Row{"LittleWasSentAndTheStopWouldBeShorterAllTheSame",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 2'500,
             .pages_before = 50'000,
             .link_bps = 40 * k100Mbit,
             .outlook = Outlook{.left_now = 700, .left_next = 150, .next_pages = 700}},
            RoundVerdict::another},
        Row{"LittleWasSentAndMoreIsDueOnceBecauseTheRoundReadEverything",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 500,
             .pages_before = 50'000,
             .link_bps = 40 * k100Mbit,
             .outlook = Outlook{.left_now = 700, .left_next = 150, .next_pages = 700}},
            RoundVerdict::another},
        Row{"HardlyAnythingWasSentOverASlowLink",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 60,
             .pages_before = 50'000,
             .link_bps = k100Mbit / 10,
             .outlook = Outlook{.left_now = 40, .left_next = 10, .next_pages = 40}},
            RoundVerdict::small},
        Row{"LittleWasSentAndTheStopWouldHardlyBeShorter",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 2'500,
             .pages_before = 50'000,
             .link_bps = 40 * k100Mbit,
             .outlook = Outlook{.left_now = 700, .left_next = 650, .next_pages = 700}},
            RoundVerdict::small},
        Row{"LittleWasSentAndNotLessThanBefore",
            {.round = 3,
             .rounds_max = 4,
             .pages_sent = 2'500,
             .pages_before = 2'600,
             .link_bps = 40 * k100Mbit,
             .outlook = Outlook{.left_now = 2'400, .left_next = 1'200, .next_pages = 2'400}},
            RoundVerdict::small},
        Row{"LittleWasSentAndNoMoreRoundsAreAllowed",
            {.round = 4,
             .rounds_max = 4,
             .pages_sent = 2'500,
             .pages_before = 50'000,
             .link_bps = 40 * k100Mbit,
             .outlook = Outlook{.left_now = 700, .left_next = 150, .next_pages = 700}},
            RoundVerdict::small},
        Row{"ItShrinks",
            {.round = 2, .rounds_max = 4, .pages_sent = 35'000, .pages_before = 50'000},
            RoundVerdict::another},
        Row{"ItDoesNotShrink",
            {.round = 2, .rounds_max = 4, .pages_sent = 35'001, .pages_before = 50'000},
            RoundVerdict::no_gain},
        Row{"NoMoreAreAllowed",
            {.round = 4, .rounds_max = 4, .pages_sent = 5'000, .pages_before = 50'000},
            RoundVerdict::used_up},
        Row{"ItShrinksAndTheModelSeesThatItStops",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 30'000,
             .pages_before = 50'000,
             .outlook = Outlook{.left_now = 20'000, .left_next = 21'000, .next_pages = 29'000}},
            RoundVerdict::no_gain},
        Row{"MoreIsWrittenThanTheLinkCarries",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 48'000,
             .pages_before = 50'000,
             .link_bps = k100Mbit,
             .outlook =
                 Outlook{.left_now = 40'000, .left_next = 40'000, .next_pages = 48'000, .written_per_second = 9'000}},
            RoundVerdict::outrun},
        Row{"LessIsWrittenThanTheLinkCarries",
            {.round = 2,
             .rounds_max = 4,
             .pages_sent = 48'000,
             .pages_before = 50'000,
             .link_bps = 10 * k100Mbit,
             .outlook =
                 Outlook{.left_now = 40'000, .left_next = 40'000, .next_pages = 48'000, .written_per_second = 9'000}},
            RoundVerdict::no_gain},
        Row{"ItWasSlowedDownNowAndSentWhatWasWrittenBefore",
            {.round = 9,
             .rounds_max = 4,
             .pages_sent = 50'000,
             .pages_before = 50'000,
             .throttle_percent = 20,
             .slowed_now = true},
            RoundVerdict::another},
        Row{"ItWasSlowedDownNowAndLittleWasSentAllTheSame",
            {.round = 3, .rounds_max = 4, .pages_sent = 64, .throttle_percent = 20, .slowed_now = true},
            RoundVerdict::small},
        Row{"ItIsSlowedDownAndShrinksWhateverTheModelSays",
            {.round = 4,
             .rounds_max = 6,
             .pages_sent = 30'000,
             .pages_before = 50'000,
             .link_bps = k100Mbit,
             .outlook =
                 Outlook{.left_now = 40'000, .left_next = 41'000, .next_pages = 48'000, .written_per_second = 9'000},
             .throttle_percent = 20},
            RoundVerdict::another},
        Row{"ItIsSlowedDownAndDoesNotShrink",
            {.round = 4, .rounds_max = 6, .pages_sent = 48'000, .pages_before = 50'000, .throttle_percent = 20},
            RoundVerdict::no_gain}),
    [](const auto& row) { return row.param.name; });

TEST(RoundsEnd, AStepIsTakenOnlyWhereAnotherRoundGainsNothing) {
  for (RoundVerdict verdict : {RoundVerdict::no_gain, RoundVerdict::outrun}) {
    EXPECT_EQ(slow_down(verdict, 0), 20u);
    EXPECT_EQ(slow_down(verdict, 20), 40u);
    EXPECT_EQ(slow_down(verdict, 40), 60u);
    EXPECT_EQ(slow_down(verdict, 60), 80u);
    EXPECT_FALSE(slow_down(verdict, 80));
  }
  for (RoundVerdict verdict : {RoundVerdict::another, RoundVerdict::small, RoundVerdict::used_up}) {
    EXPECT_FALSE(slow_down(verdict, 0)) << to_string(verdict);
  }
}

// A workload that writes each of 50 000 pages, at random, at `writes` a second. How many rounds until pre-copy ends?
unsigned rounds_of(double writes, uint64_t link_bps, RoundVerdict& verdict) {
  auto written = [&](Nanoseconds time) {
    return static_cast<uint64_t>(50'000 * -std::expm1(-writes * std::chrono::duration<double>(time).count() / 50'000));
  };
  RoundForecaster forecaster;
  Timestamp at{};
  uint64_t pages = 50'000, before = 0;
  for (unsigned round = 1;; ++round) {
    const Nanoseconds duration = 30ms + time_to_send(pages, link_bps);
    forecaster.round(round, at, at + duration, pages, 50'000);
    at += duration;
    verdict = after_round({.round = round,
                           .rounds_max = 20,
                           .pages_sent = pages,
                           .pages_before = before,
                           .link_bps = link_bps,
                           .outlook = forecaster.outlook(duration, link_bps, 30ms)});
    if (verdict != RoundVerdict::another) return round;
    before = pages;
    pages = written(duration);
  }
}

TEST(Strategy, AWriterThatIsFasterThanTheLinkIsSeenInThreeRounds) {
  for (double times : {1.1, 1.5, 2.0, 5.0, 20.0}) {
    RoundVerdict verdict{};
    const double carried = static_cast<double>(k100Mbit) / (4096 * 8);
    EXPECT_LE(rounds_of(times * carried, k100Mbit, verdict), 3u) << times;
    EXPECT_EQ(verdict, RoundVerdict::outrun) << times;
  }
}

TEST(Strategy, AWriterThatIsSlowerThanTheLinkIsFollowedToTheEnd) {
  for (double times : {0.05, 0.2, 0.4}) {
    RoundVerdict verdict{};
    const double carried = static_cast<double>(k100Mbit) / (4096 * 8);
    (void)rounds_of(times * carried, k100Mbit, verdict);
    EXPECT_EQ(verdict, RoundVerdict::small) << times;
  }
}

TEST(Strategy, BoundIs64MiBAndOneSecondOfTheLinkForAutoAlone) {
  EXPECT_EQ(pages_left_max(Strategy::automatic, 0), kBoundPages);
  EXPECT_EQ(pages_left_max(Strategy::automatic, 10'000'000'000), kBoundPages);
  EXPECT_EQ(pages_left_max(Strategy::automatic, k100Mbit), k100Mbit / 8 / 4096);
  for (Strategy other : {Strategy::cold, Strategy::precopy, Strategy::postcopy, Strategy::hybrid}) {
    EXPECT_FALSE(pages_left_max(other, k100Mbit));
  }
}

TEST(Strategy, OnlyColdAndPrecopyBringAllMemoryFirst) {
  EXPECT_TRUE(memory_first(Strategy::cold));
  EXPECT_TRUE(memory_first(Strategy::precopy));
  EXPECT_FALSE(memory_first(Strategy::postcopy));
  EXPECT_FALSE(memory_first(Strategy::hybrid));
}

TEST(Strategy, AutoSaysWhatIsLeftAndWhetherTheCommitWaits) {
  RoundFacts facts{.round = 2, .pages_sent = 1000, .pages_before = 50'000, .link_bps = 10 * k100Mbit};
  facts.outlook = Outlook{.left_now = 512};
  StrategyChoice choice = choose_strategy(Strategy::automatic, facts, RoundVerdict::small);
  EXPECT_EQ(choice.strategy, Strategy::hybrid);
  EXPECT_THAT(choice.reason, HasSubstr("2.0 MiB are forecast to be left, within the bound of 64.0 MiB"));
  facts = {.round = 3, .pages_sent = 50'000, .pages_before = 50'000, .link_bps = k100Mbit};
  facts.outlook = Outlook{.left_now = 40'000, .written_per_second = 10'000};
  choice = choose_strategy(Strategy::automatic, facts, RoundVerdict::outrun);
  EXPECT_EQ(choice.strategy, Strategy::hybrid);
  EXPECT_THAT(choice.reason,
              HasSubstr("pre-copy does not converge: 39.1 MiB/s of different pages are written, the link "
                        "carries 11.9 MiB/s"));
  EXPECT_THAT(choice.reason, HasSubstr("the commit waits until no more than 11.9 MiB are left, about 12.1 s"));
}

TEST(Strategy, ASlowdownIsSaid) {
  EXPECT_EQ(explain_slowdown(20), "pre-copy does not converge: the workload is slowed down by 20 %");
  RoundFacts facts{.round = 7, .pages_sent = 1000, .pages_before = 50'000, .link_bps = k100Mbit, .throttle_percent = 60};
  facts.outlook = Outlook{.left_now = 40'000, .written_per_second = 10'000};  // of the time before
  StrategyChoice choice = choose_strategy(Strategy::automatic, facts, RoundVerdict::small);
  EXPECT_THAT(choice.reason, HasSubstr("round 7 had only 3.9 MiB to send; the workload was slowed down by up to 60 %"));
  EXPECT_THAT(choice.reason, HasSubstr("3.9 MiB at most are left, within the bound"));
}

TEST(Strategy, WhatWasAskedForIsDone) {
  for (Strategy asked : {Strategy::cold, Strategy::precopy, Strategy::postcopy, Strategy::hybrid}) {
    EXPECT_EQ(choose_strategy(asked).strategy, asked);
    EXPECT_EQ(choose_strategy(asked, {}, RoundVerdict::outrun).strategy, asked);
    EXPECT_THAT(choose_strategy(asked).reason, testing::StartsWith("asked for"));
  }
}

}  // namespace
}  // namespace mose::plan
