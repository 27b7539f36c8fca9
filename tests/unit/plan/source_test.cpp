// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "plan/strategy.h"
#include "unit/plan/drive.h"

// The way forward of the source's half, one rule per test. The way back is plan_source_abort_test.cpp.
namespace mose::plan::test {
namespace {

using enum SourceActionKind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr uint64_t kManyPages = 1'000'000;

TEST(PlanSource, BeginsWithThePreflightAlone) {
  SourceDrive source;
  EXPECT_THAT(source.actions, ElementsAre("preflight"));
  EXPECT_EQ(source.state.phase, SourcePhase::preflight);
  EXPECT_FALSE(source.state.touched);
}

TEST(PlanSource, WritesTheBeginningBeforeItConnects) {
  SourceDrive source;
  EXPECT_THAT(source.done(preflight), ElementsAre("record begun"));
  EXPECT_THAT(source.done(record), ElementsAre("connect"));
  EXPECT_EQ(source.state.phase, SourcePhase::preparing);
}

TEST(PlanSource, SendsPrepareOnTheConnectionAndWaitsForPrepared) {
  SourceDrive source;
  source.to_begun();
  EXPECT_THAT(source.done(connect), ElementsAre("send prepare"));
  EXPECT_TRUE(source.state.touched);
  EXPECT_THAT(source.done(send), IsEmpty());
  EXPECT_EQ(source.state.deadline, source.now + kPrepareDeadline);
  EXPECT_THAT(source.hears(Message::prepared), ElementsAre("precopy_round 1"));
  EXPECT_FALSE(source.state.deadline);
}

TEST(PlanSource, AnAnswerMayOvertakeTheEndOfItsSend) {
  SourceDrive source;
  source.to_begun().done(connect);
  EXPECT_THAT(source.hears(Message::prepared), ElementsAre("precopy_round 1"));
  EXPECT_THAT(source.done(send), IsEmpty());
  EXPECT_THAT(source.round_sent(1), ElementsAre("arm_dump"));
}

TEST(PlanSource, AutoIsHybrid) {
  EXPECT_EQ(SourceDrive(MigrationOptions{.strategy = Strategy::automatic}).state.strategy, Strategy::hybrid);
  EXPECT_EQ(SourceDrive(MigrationOptions{.strategy = Strategy::cold}).state.strategy, Strategy::cold);
}

TEST(PlanSource, AutoCommitsOnlyWhenNoMoreThanTheBoundIsLeft) {
  SourceDrive source(MigrationOptions{.strategy = Strategy::automatic});
  source.to_dumping().scanned(kManyPages);
  source.done(dump);
  source.done(send);
  source.done(finish_dump);
  EXPECT_EQ(source.state.phase, SourcePhase::restoring);
  EXPECT_THAT(source.hears(Message::ready), IsEmpty());
  EXPECT_THAT(source.play(PagesLeft{kBoundPages + 1}), IsEmpty());
  EXPECT_THAT(source.play(PagesLeft{kBoundPages}), ElementsAre("record commit"));
}

TEST(PlanSource, AutoKeepsToOneSecondOfTheLink) {
  SourceDrive source(MigrationOptions{.strategy = Strategy::automatic, .rounds_max = 1});
  source.to_precopy().play(
      SourceActionDone{.kind = precopy_round, .stats = {.pages_sent = 50'000, .link_bps = 100 * 4096 * 8}});
  source.done(arm_dump);
  source.done(quiesce);
  source.done(freeze);
  source.scanned(200);
  source.done(dump);
  source.done(send);
  source.done(finish_dump);
  EXPECT_EQ(source.state.deadline, source.now + kReadyDeadline + 4 * std::chrono::seconds(1));
  source.hears(Message::ready);
  EXPECT_THAT(source.play(PagesLeft{101}), IsEmpty());
  EXPECT_THAT(source.play(PagesLeft{100}), ElementsAre("record commit"));
}

TEST(PlanSource, OtherStrategiesLeaveAsMuchAsThereIs) {
  for (Strategy strategy : {Strategy::hybrid, Strategy::postcopy, Strategy::cold, Strategy::precopy}) {
    SourceDrive source(MigrationOptions{.strategy = strategy});
    source.to_prepare_sent().hears(Message::prepared);
    if (precopies(strategy)) source.round_sent(1);
    source.done(arm_dump);
    source.done(quiesce);
    source.done(freeze);
    source.scanned(kManyPages);
    source.done(dump);
    source.done(send);
    source.done(finish_dump);
    // What has to come before READY may take as long as it does on a slow link.
    const Nanoseconds most = source.state.deadline.value() - source.now;
    EXPECT_EQ(most > kReadyDeadline, memory_first(strategy)) << to_string(strategy);
    EXPECT_THAT(source.hears(Message::ready), ElementsAre("record commit")) << to_string(strategy);
  }
}

TEST(PlanSource, ColdAndPostcopyFreezeWithoutARound) {
  for (Strategy strategy : {Strategy::cold, Strategy::postcopy}) {
    SourceDrive source(MigrationOptions{.strategy = strategy});
    source.to_prepare_sent();
    EXPECT_THAT(source.hears(Message::prepared), ElementsAre("arm_dump")) << to_string(strategy);
    EXPECT_EQ(source.state.round, 0u);
  }
}

TEST(PlanSource, PrecopiesUntilARoundIsSmall) {
  for (Strategy strategy : {Strategy::automatic, Strategy::precopy, Strategy::hybrid}) {
    SourceDrive source(MigrationOptions{.strategy = strategy, .rounds_max = 9});
    source.to_precopy();
    EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("precopy_round 2")) << to_string(strategy);
    EXPECT_THAT(source.round_sent(kManyPages / 4), ElementsAre("precopy_round 3"));
    EXPECT_THAT(source.round_sent(4097), ElementsAre("precopy_round 4"));
    EXPECT_THAT(source.round_sent(4096), ElementsAre("arm_dump"));
  }
}

TEST(PlanSource, PrecopiesUntilTheRoundsStopShrinking) {
  SourceDrive source(MigrationOptions{.rounds_max = 9});
  source.to_precopy().round_sent(kManyPages);
  EXPECT_THAT(source.round_sent(kManyPages * 70 / 100), ElementsAre("precopy_round 3"));
  EXPECT_THAT(source.round_sent(kManyPages * 50 / 100), ElementsAre("arm_dump"));
}

TEST(PlanSource, PrecopiesNoMoreThanTheRoundsAskedFor) {
  SourceDrive source(MigrationOptions{.rounds_max = 2});
  source.to_precopy();
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("precopy_round 2"));
  EXPECT_THAT(source.round_sent(kManyPages / 4), ElementsAre("arm_dump"));
}

TEST(PlanSource, PrecopiesAtLeastOneRound) {
  SourceDrive source(MigrationOptions{.rounds_max = 0});
  source.to_prepare_sent();
  EXPECT_THAT(source.hears(Message::prepared), ElementsAre("precopy_round 1"));
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("arm_dump"));
}

TEST(PlanSource, SlowsNobodyDownWithoutBeingAsked) {
  SourceDrive source(MigrationOptions{.rounds_max = 9});
  source.to_precopy().round_sent(kManyPages);
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("arm_dump"));
  EXPECT_EQ(source.state.throttle_percent, 0u);
  EXPECT_THAT(source.state.strategy_reason, testing::Not(HasSubstr("slowed")));
}

TEST(PlanSource, SlowsTheWorkloadDownInStepsAndJudgesEachByItsSecondRound) {
  SourceDrive source(MigrationOptions{.strategy = Strategy::precopy, .rounds_max = 3, .auto_converge = true});
  source.to_precopy();
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("precopy_round 2"));
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("precopy_round 3 slowed by 20"));
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("precopy_round 4 slowed by 20"));
  EXPECT_THAT(source.round_sent(kManyPages * 90 / 100), ElementsAre("precopy_round 5 slowed by 40"));
  EXPECT_THAT(source.round_sent(kManyPages * 80 / 100), ElementsAre("precopy_round 6 slowed by 40"));
  EXPECT_THAT(source.round_sent(kManyPages * 50 / 100), ElementsAre("precopy_round 7 slowed by 40")) << "it shrinks";
  EXPECT_THAT(source.round_sent(1), ElementsAre("arm_dump"));
  EXPECT_EQ(source.state.rounds_ended, RoundVerdict::small);
  EXPECT_EQ(source.state.throttle_percent, 40u);
  EXPECT_THAT(source.state.strategy_reason, HasSubstr("; the workload was slowed down by up to 40 %"));
}

TEST(PlanSource, EndsTheRoundsWhenEightyPercentDoNotHelpEither) {
  SourceDrive source(MigrationOptions{.rounds_max = 2, .auto_converge = true});
  source.to_precopy().round_sent(kManyPages);
  unsigned rounds = 1;
  while (source.state.phase == SourcePhase::precopy && rounds < 100) {
    source.round_sent(kManyPages);
    ++rounds;
  }
  EXPECT_THAT(source.actions, ElementsAre("arm_dump"));
  EXPECT_EQ(rounds, 2 + rounds_of_steps(kSlowMaxPercent));
  EXPECT_EQ(source.state.rounds_ended, RoundVerdict::no_gain);
  EXPECT_THAT(source.state.strategy_reason, HasSubstr("slowed down by up to 80 %"));
}

TEST(PlanSource, AForecastLearntAtFullSpeedEndsNoSlowedRounds) {
  SourceDrive source(MigrationOptions{.rounds_max = 4, .auto_converge = true});
  auto sent = [&source](uint64_t pages) {
    return source.play(SourceActionDone{.kind = precopy_round,
                                        .stats = {.pages_sent = pages,
                                                  .link_bps = 1'000'000'000,
                                                  .outlook = Outlook{.left_now = 1e6,
                                                                     .left_next = 2e6,
                                                                     .next_pages = 3e6,
                                                                     .written_per_second = 1e9}}});
  };
  source.to_precopy().round_sent(kManyPages);
  EXPECT_THAT(sent(kManyPages / 2), ElementsAre("precopy_round 3 slowed by 20")) << "at full speed it is believed";
  EXPECT_THAT(sent(kManyPages / 2), ElementsAre("precopy_round 4 slowed by 20"));
  EXPECT_THAT(sent(kManyPages / 4), ElementsAre("precopy_round 5 slowed by 20"));
  sent(kManyPages / 8);
  EXPECT_THAT(source.actions, ElementsAre("precopy_round 6 slowed by 20"));
  EXPECT_THAT(sent(kManyPages / 16), ElementsAre("arm_dump")) << "as many as may be, and two for the step";
  EXPECT_EQ(source.state.rounds_ended, RoundVerdict::used_up);
}

// Where write faults are dear.
class PlanSourceClosing : public ::testing::Test {
 protected:
  const Words& sent(uint64_t pages, std::optional<Outlook> outlook = {}, bool unprepared = true) {
    return source_.play(SourceActionDone{
        .kind = precopy_round,
        .stats = {.pages_present = kManyPages, .pages_sent = pages, .link_bps = link_bps_, .outlook = outlook, .unprepared = unprepared,
                  .write_fault_seconds = write_fault_seconds_, .pages_next_protected = pages_next_protected_}});
  }
  // To the end of a closing round behind which so much is left, and behind another, at 1 Gbit/s: 43 us a page.
  const Words& closed(double left_now, double left_next) {
    const Outlook outlook{.left_now = left_now, .left_next = left_next, .next_pages = left_now, .written_per_second = 1e4};
    source_.to_precopy();
    sent(kManyPages);
    sent(kManyPages / 2, outlook);
    return sent(kClosingPages, outlook, false);
  }
  // A workload of 8 GB on a slow link, of which the round before the closing one has sent as much as that will.
  const Words& closes_on_slow_link(double next_pages) {
    link_bps_ = 100'000'000;
    source_.to_precopy();
    sent(2 << 20);
    return sent(1 << 18, Outlook{.left_now = next_pages, .left_next = next_pages / 4, .next_pages = next_pages, .written_per_second = 100});
  }
  // Of so many rounds, each of which sends two thirds of the one before and would be followed by one of much: which is the closing one.
  unsigned closes_in(unsigned rounds_max, bool auto_converge) {
    const Outlook much{.left_now = 18'000, .left_next = 16'000, .next_pages = 20'000, .written_per_second = 1e4};
    source_ = SourceDrive(MigrationOptions{.rounds_max = rounds_max, .auto_converge = auto_converge});
    source_.to_precopy();
    unsigned round = 1;
    for (uint64_t pages = 20 * kManyPages; !source_.state.closing && round < rounds_max; pages = pages * 2 / 3, ++round)
      sent(pages, round > 1 ? std::optional(much) : std::nullopt);
    return source_.state.closing ? round : 0;
  }
  uint64_t link_bps_ = 1'000'000'000;
  double write_fault_seconds_ = 0;
  uint64_t pages_next_protected_ = 0;
  SourceDrive source_{MigrationOptions{.rounds_max = 6}};
};

TEST_F(PlanSourceClosing, RoundsThatHaveComeToTheirEndAreFollowedByOneThatPreparesTheFinalScan) {
  source_.to_precopy();
  EXPECT_THAT(sent(kManyPages), ElementsAre("precopy_round 2"));
  EXPECT_THAT(sent(1), ElementsAre("precopy_round 3 closing"));
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::another) << "it has not ended yet";
  EXPECT_THAT(sent(kManyPages, {}, false), ElementsAre("arm_dump")) << "once, whatever it sent";
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::no_gain) << "it is the last one's verdict";
}

TEST_F(PlanSourceClosing, OneThatWillSendLittleIsTheLast) {
  source_.to_precopy();
  const Outlook little{.left_now = 3000, .left_next = 100, .next_pages = static_cast<double>(kClosingPages), .written_per_second = 1e4};
  EXPECT_THAT(sent(kManyPages, little), ElementsAre("precopy_round 2")) << "nothing is known of what is hot";
  EXPECT_THAT(sent(kManyPages / 4, little), ElementsAre("precopy_round 3 closing"));
  EXPECT_THAT(sent(kClosingPages / 2, little, false), ElementsAre("arm_dump"));
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::small);
}

TEST_F(PlanSourceClosing, OneThatWillSendMuchIsNot) {
  source_.to_precopy();
  const Outlook much{.left_now = kManyPages / 4, .left_next = kManyPages / 8, .next_pages = kManyPages / 4, .written_per_second = 1e4};
  sent(kManyPages);
  EXPECT_THAT(sent(kManyPages / 2, much), ElementsAre("precopy_round 3"));
}

TEST_F(PlanSourceClosing, IsTheLastOfThoseThatMayBe) {
  const Outlook much{.left_now = kManyPages / 4, .left_next = kManyPages / 8, .next_pages = kManyPages / 4, .written_per_second = 1e4};
  source_ = SourceDrive(MigrationOptions{.rounds_max = 3});
  source_.to_precopy();
  sent(kManyPages);
  EXPECT_THAT(sent(kManyPages / 2, much), ElementsAre("precopy_round 3 closing"));
  sent(kManyPages / 3, much, false);
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::used_up);
}

TEST_F(PlanSourceClosing, TakesTheLinkNoLongerThanTheWorkloadMayPay) {
  EXPECT_EQ(closing_pages(2 << 20, 0), 2u << 20 >> 4) << "nothing is known of the link";
  EXPECT_EQ(closing_pages(2 << 20, 100'000'000'000), 2u << 20 >> 4);
  EXPECT_EQ(closing_pages(2 << 20, 100'000'000), 1525u);
  EXPECT_EQ(closing_pages(1 << 10, 1'000'000), rest_pages(1'000'000)) << "no less than what ends the rounds";
  EXPECT_THAT(closes_on_slow_link(1526), ElementsAre("precopy_round 3"));
}

TEST_F(PlanSourceClosing, IsFollowedByOthersWhereTheLinkIsSlowWithWhatIsLeft) {
  EXPECT_THAT(closes_on_slow_link(1500), ElementsAre("precopy_round 3 closing"));
  EXPECT_THAT(sent(1500, Outlook{.left_now = 800, .left_next = 100, .next_pages = 800, .written_per_second = 100}, false),
              ElementsAre("precopy_round 4"));
  sent(300, {}, false);
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::small);
}

TEST_F(PlanSourceClosing, IsTheLastWhereTheLinkIsQuickWithWhatIsLeft) {
  const Outlook much{.left_now = 3000, .left_next = 1000, .next_pages = 3000, .written_per_second = 1e4};
  source_.to_precopy();
  sent(kManyPages);
  EXPECT_THAT(sent(kManyPages / 2, much), ElementsAre("precopy_round 3 closing"));
  EXPECT_THAT(sent(kClosingPages * 2, much, false), ElementsAre("arm_dump"));
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::costly);
  EXPECT_THAT(source_.state.strategy_reason, HasSubstr("another would cost the workload more"));
}

TEST_F(PlanSourceClosing, IsFollowedByOneThatShortensTheStopByMoreThanTheWorkloadPays) {
  write_fault_seconds_ = 30e-6;
  EXPECT_THAT(closed(1000, 300), ElementsAre("precopy_round 4")) << "30 ms for 9";
  EXPECT_THAT(sent(1000, Outlook{.left_now = 300, .left_next = 200, .next_pages = 300, .written_per_second = 1e4}, false),
              ElementsAre("arm_dump"))
      << "4 ms are not worth a round";
}

TEST_F(PlanSourceClosing, IsTheLastWhereTheWorkloadWouldPayAsMuch) {
  write_fault_seconds_ = 30e-6;
  EXPECT_THAT(closed(2000, 1000), ElementsAre("arm_dump")) << "43 ms for 30";
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::costly);
}

TEST_F(PlanSourceClosing, WhatItCouldShortenIsNoReasonToSlowTheWorkloadDown) {
  write_fault_seconds_ = 30e-6;
  source_ = SourceDrive(MigrationOptions{.rounds_max = 6, .auto_converge = true});
  const Outlook outlook{.left_now = 2000, .left_next = 300, .next_pages = 3000, .written_per_second = 1e4};
  source_.to_precopy();
  sent(kManyPages);
  sent(kClosingPages * 3 / 2, outlook);
  EXPECT_THAT(sent(kClosingPages * 3 / 2, outlook, false), ElementsAre("precopy_round 4")) << "it did not shrink";
  EXPECT_THAT(sent(2000, Outlook{.left_now = 300, .left_next = 250, .next_pages = 300, .written_per_second = 1e4}, false),
              ElementsAre("arm_dump"));
  EXPECT_EQ(source_.state.rounds_ended, RoundVerdict::small);
}

TEST_F(PlanSourceClosing, IsFollowedByOthersThoughItSentNoLessThanTheRoundBefore) {
  write_fault_seconds_ = 1e-6;
  source_ = SourceDrive(MigrationOptions{.rounds_max = 5});
  const Outlook much{.left_now = 12'000, .left_next = 4000, .next_pages = 20'000, .written_per_second = 3e4};
  source_.to_precopy();
  sent(kManyPages);
  sent(kManyPages / 4, much);
  EXPECT_THAT(sent(kManyPages / 4, much), ElementsAre("precopy_round 4 closing"));
  EXPECT_THAT(sent(kManyPages / 4, much, false), ElementsAre("precopy_round 5")) << "what it sent was written before, what it left is less";
  EXPECT_THAT(sent(12'000, much, false), ElementsAre("arm_dump")) << "as many as may be";
}

TEST_F(PlanSourceClosing, LeavesSomeOfManyRoundsToThoseBehindIt) {
  write_fault_seconds_ = 1e-6;
  for (const bool auto_converge : {false, true}) {
    for (const auto& [rounds_max, closing] : {std::pair{3u, 3u}, {4u, 4u}, {5u, 4u}, {7u, 4u}, {8u, 4u}, {10u, 6u}}) {
      EXPECT_EQ(closes_in(rounds_max, auto_converge && rounds_max > 4), closing) << rounds_max;
    }
  }
}

TEST_F(PlanSourceClosing, LeavesNoneWhereTheyWouldNotBeWorthIt) {
  write_fault_seconds_ = 3e-6;
  EXPECT_EQ(closes_in(8, false), 8u);
  write_fault_seconds_ = 0;
  EXPECT_EQ(closes_in(8, false), 8u) << "nobody knows";
}

TEST_F(PlanSourceClosing, IsFollowedByNoneThatWouldLeaveAboutAsMuch) {
  write_fault_seconds_ = 1e-6;
  EXPECT_THAT(closed(3000, 2500), ElementsAre("arm_dump")) << "26 ms for 5, if the model were certain";
  source_ = SourceDrive(MigrationOptions{.rounds_max = 6});
  EXPECT_THAT(closed(3000, 2100), ElementsAre("precopy_round 4"));
}

TEST_F(PlanSourceClosing, IsFollowedByNoneThatCostsMoreFaultsThanItSaves) {
  write_fault_seconds_ = 2e-6;
  pages_next_protected_ = 20'000;
  EXPECT_THAT(closed(300, 250), ElementsAre("arm_dump")) << "each of the hot pages is written again, for as much";
}

TEST(PlanSource, ARoundThatProtectedMemoryIsFollowedByALookAtTheRecord) {
  using std::chrono::milliseconds;
  EXPECT_EQ(next_look({.duration = milliseconds(900), .sending = milliseconds(100)}), milliseconds(800)) << "as long as this one";
  EXPECT_EQ(next_look({.duration = milliseconds(100), .sending = milliseconds(130)}), milliseconds(0));
  EXPECT_EQ(next_look({.duration = milliseconds(900), .sending = milliseconds(100), .pages_read = 1'000'000, .pages_armed = 1'000'000}), milliseconds(30));
  EXPECT_EQ(next_look({.duration = milliseconds(900), .sending = milliseconds(100), .pages_read = 2'000'000, .pages_armed = 1'000'000}), milliseconds(430))
      << "what could not be protected is read again";
  EXPECT_EQ(next_look({.duration = milliseconds(20), .sending = milliseconds(5), .pages_read = 1'000'000, .pages_armed = 1'000'000}), milliseconds(15));
}

TEST_F(PlanSourceClosing, IsFollowedByOneThatProtectsWhatItLeftUnprotected) {
  write_fault_seconds_ = 1e-6;
  pages_next_protected_ = 20'000;
  EXPECT_THAT(closed(300, 250), ElementsAre("precopy_round 4")) << "40 ms of the final scan";
  pages_next_protected_ = 0;
  EXPECT_THAT(sent(300, Outlook{.left_now = 300, .left_next = 250, .next_pages = 300, .written_per_second = 1e4}, false),
              ElementsAre("arm_dump"));
}

TEST_F(PlanSourceClosing, IsTheLastWhereNobodyKnowsWhatTheWorkloadPays) {
  EXPECT_THAT(closed(2000, 100), ElementsAre("arm_dump"));
}

TEST_F(PlanSourceClosing, AForecastThatWasWrongSlowsTheWorkloadDownBehindIt) {
  source_ = SourceDrive(MigrationOptions{.rounds_max = 6, .auto_converge = true});
  source_.to_precopy();
  sent(kManyPages);
  const Outlook little{.left_now = 3000, .left_next = 100, .next_pages = 3000, .written_per_second = 1e4};
  EXPECT_THAT(sent(kManyPages / 2, little), ElementsAre("precopy_round 3 closing"));
  EXPECT_THAT(sent(kManyPages / 2, {}, false), ElementsAre("precopy_round 4 slowed by 20"));
}

TEST_F(PlanSourceClosing, IsTheOneBehindTheStandbyWhereNoOtherMayBe) {
  source_ = SourceDrive(MigrationOptions{.rounds_max = 2, .standby = true});
  source_.to_precopy();
  EXPECT_THAT(sent(kManyPages), ElementsAre("make_standby"));
  EXPECT_THAT(source_.done(make_standby), ElementsAre("precopy_round 2 closing"));
}

TEST_F(PlanSourceClosing, TheWorkloadIsSlowedDownBeforeIt) {
  source_ = SourceDrive(MigrationOptions{.rounds_max = 6, .auto_converge = true});
  source_.to_precopy();
  sent(kManyPages);
  EXPECT_THAT(sent(kManyPages), ElementsAre("precopy_round 3 slowed by 20"));
  EXPECT_THAT(sent(kManyPages / 2), ElementsAre("precopy_round 4 slowed by 20"));
  EXPECT_THAT(sent(1), ElementsAre("precopy_round 5 slowed by 20 closing"));
}

TEST_F(PlanSourceClosing, IsNotTheLastThatMayBeWhileTheWorkloadMayBeSlowedDown) {
  source_ = SourceDrive(MigrationOptions{.rounds_max = 2, .auto_converge = true});
  source_.to_precopy();
  EXPECT_THAT(sent(kManyPages), ElementsAre("precopy_round 2"));
  EXPECT_THAT(sent(kManyPages), ElementsAre("precopy_round 3 slowed by 20"));
}

// A dump is prepared beside it, which has to go.
TEST_F(PlanSourceClosing, AnAbortInItIsOverWhenTheSourceHasBeenPutBack) {
  source_.to_precopy();
  sent(kManyPages);
  sent(1);
  source_.loses_connection();
  EXPECT_TRUE(source_.state.resume_wanted);
}

TEST(PlanSource, TheFinalScanIsPreparedEarlyWhereNothingIsToBeLearned) {
  constexpr uint64_t kPages = 1 << 18;
  EXPECT_FALSE(prepares_early({.round = 1, .rounds_max = 4, .pages = kPages, .expected = {}}));
  EXPECT_TRUE(prepares_early({.round = 1, .rounds_max = 4, .pages = kRestPages, .expected = {}})) << "there is so little";
  EXPECT_TRUE(prepares_early({.round = 1, .rounds_max = 1, .pages = kPages, .expected = {}}));
  EXPECT_FALSE(prepares_early({.round = 2, .rounds_max = 4, .pages = kPages, .expected = {}})) << "nothing is known of it";
  EXPECT_TRUE(prepares_early({.round = 2, .rounds_max = 4, .pages = kPages, .expected = kQuietPages}));
  EXPECT_FALSE(prepares_early({.round = 2, .rounds_max = 4, .pages = kPages, .expected = kQuietPages + 1}));
  EXPECT_TRUE(prepares_early({.round = 4, .rounds_max = 4, .pages = kPages, .expected = kPages})) << "the last that may be";
}

TEST(PlanSource, AnAbortAfterASlowdownIsOverOnlyWhenTheSourceRunsAtFullSpeed) {
  SourceDrive source(MigrationOptions{.auto_converge = true});
  source.to_precopy().round_sent(kManyPages);
  EXPECT_THAT(source.round_sent(kManyPages), ElementsAre("precopy_round 3 slowed by 20"));
  EXPECT_FALSE(source.state.stopped);
  source.play(CancelRequested{});
  source.done(record);
  EXPECT_FALSE(settled(source.state));
  source.done(resume_source);
  EXPECT_TRUE(settled(source.state));
}

TEST(PlanSource, MakesAStandbyAfterTheFirstRoundAndSendsWhatWasWrittenMeanwhile) {
  SourceDrive source(MigrationOptions{.rounds_max = 3, .standby = true});
  source.to_precopy();
  EXPECT_THAT(source.round_sent(1), ElementsAre("make_standby"));
  EXPECT_EQ(source.state.phase, SourcePhase::standby);
  EXPECT_TRUE(before_commit(source.state));
  EXPECT_THAT(source.done(make_standby), ElementsAre("precopy_round 2"));
  EXPECT_EQ(source.state.phase, SourcePhase::precopy);
  EXPECT_THAT(source.round_sent(1), ElementsAre("arm_dump"));  // once
}

TEST(PlanSource, MakesNoStandbyThatNoRoundCouldFollow) {
  SourceDrive source(MigrationOptions{.rounds_max = 1, .standby = true});
  source.to_precopy();
  EXPECT_THAT(source.round_sent(1), ElementsAre("arm_dump"));
}

TEST(PlanSource, ArmsThenQuiescesThenFreezesThenDumpsAndScansSideBySide) {
  SourceDrive source;
  source.to_arming();
  EXPECT_EQ(source.state.phase, SourcePhase::arming);
  EXPECT_FALSE(source.state.stopped);
  EXPECT_THAT(source.done(arm_dump), ElementsAre("quiesce"));
  EXPECT_EQ(source.state.phase, SourcePhase::quiescing);
  EXPECT_FALSE(source.state.stopped);
  EXPECT_THAT(source.done(quiesce), ElementsAre("freeze"));
  EXPECT_EQ(source.state.phase, SourcePhase::freezing);
  EXPECT_TRUE(source.state.stopped);
  EXPECT_THAT(source.done(freeze), ElementsAre("dump", "final_scan"));
  EXPECT_EQ(source.state.phase, SourcePhase::dumping);
}

TEST(PlanSource, SendsTheImagesWhileCriuLetsGo) {
  SourceDrive source;
  source.to_dumping();
  EXPECT_THAT(source.done(dump), ElementsAre("send images", "finish_dump"));
}

TEST(PlanSource, CommitsOnlyWhenImagesMapDumpAndReadyAreAllThere) {
  // Every order in which the four may come.
  std::vector<int> order = {0, 1, 2, 3};
  do {
    SourceDrive source;
    source.to_dumping().done(dump);
    for (size_t i = 0; i < order.size(); ++i) {
      switch (order[i]) {
        case 0:
          source.done(send);
          break;
        case 1:
          source.done(final_scan);
          break;
        case 2:
          source.done(finish_dump);
          break;
        case 3:
          source.hears(Message::ready);
          break;
      }
      if (i + 1 < order.size()) {
        ASSERT_THAT(source.actions, IsEmpty()) << "after " << i + 1 << " of four";
        ASSERT_TRUE(before_commit(source.state));
      }
    }
    ASSERT_THAT(source.actions, ElementsAre("record commit"));
    ASSERT_EQ(source.state.phase, SourcePhase::committing);
    ASSERT_FALSE(before_commit(source.state));
    ASSERT_FALSE(source.state.deadline);
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(PlanSource, WaitsForReadyFromTheMomentImagesAndMapAreOut) {
  SourceDrive source;
  source.to_dumping().done(dump);
  source.done(finish_dump);
  source.done(send);
  EXPECT_EQ(source.state.phase, SourcePhase::dumping);
  source.now += Nanoseconds(5);
  source.done(final_scan);
  EXPECT_EQ(source.state.phase, SourcePhase::restoring);
  EXPECT_EQ(source.state.deadline, source.now + kReadyDeadline);
}

TEST(PlanSource, SendsCommitOnlyWhenItsRecordIsDurable) {
  SourceDrive source;
  source.to_committing();
  EXPECT_EQ(verdict(source.state), Verdict::undecided);
  EXPECT_THAT(source.done(record), ElementsAre("send commit"));
  EXPECT_EQ(verdict(source.state), Verdict::commit);
  EXPECT_EQ(source.state.phase, SourcePhase::committed);
}

TEST(PlanSource, RedirectsWhenTheDestinationRuns) {
  SourceDrive source;
  source.to_committed();
  EXPECT_THAT(source.hears(Message::committed), ElementsAre("redirect"));
  EXPECT_EQ(source.state.phase, SourcePhase::serving);
}

TEST(PlanSource, KillsTheSourceTreeOnlyAfterComplete) {
  SourceDrive source;
  source.to_serving();
  EXPECT_THAT(source.done(redirect), IsEmpty());
  EXPECT_THAT(source.hears(Message::complete), ElementsAre("record complete"));
}

TEST(PlanSource, KillsTheSourceTreeOnlyAfterTheRedirect) {
  SourceDrive source;
  source.to_serving();
  EXPECT_THAT(source.hears(Message::complete), IsEmpty());
  EXPECT_THAT(source.done(redirect), ElementsAre("record complete"));
}

TEST(PlanSource, ThatEverythingIsOverThereIsWrittenBeforeTheKill) {
  SourceDrive source;
  source.to_serving().done(redirect);
  EXPECT_THAT(source.hears(Message::complete), ElementsAre("record complete"));
  EXPECT_THAT(source.done(record), ElementsAre("kill_source"));
}

TEST(PlanSource, ACompleteThatCannotBeWrittenHoldsNothingUp) {
  SourceDrive source;
  source.to_serving().done(redirect);
  source.hears(Message::complete);
  EXPECT_THAT(source.done(record, "disk full"), ElementsAre("kill_source"));
}

TEST(PlanSource, CompleteSaysThatItIsCommittedToo) {
  SourceDrive source;
  source.to_committed();
  EXPECT_THAT(source.hears(Message::complete), ElementsAre("redirect"));
  EXPECT_THAT(source.done(redirect), ElementsAre("record complete"));
}

TEST(PlanSource, EndsWithTheRecordThenReleasedThenClose) {
  SourceDrive source;
  source.to_finishing();
  EXPECT_THAT(source.done(kill_source), ElementsAre("record finished"));
  EXPECT_THAT(source.done(record), ElementsAre("send released"));
  EXPECT_FALSE(settled(source.state));
  EXPECT_THAT(source.done(send), ElementsAre("close"));
  EXPECT_EQ(source.state.phase, SourcePhase::done);
  EXPECT_EQ(source.state.outcome, Outcome::complete);
  EXPECT_EQ(source.state.reason, "");
  EXPECT_TRUE(settled(source.state));
  EXPECT_TRUE(nothing_left(source.state));
  EXPECT_THAT(source.done(close), IsEmpty());
}

// ---- After the commit: only forward

TEST(PlanSourceCommitted, ALostConnectionIsMadeAgainAndBeginsWithCommit) {
  SourceDrive source;
  source.to_committed();
  EXPECT_THAT(source.loses_connection(), ElementsAre("wait_retry"));
  EXPECT_THAT(source.done(wait_retry), ElementsAre("connect"));
  EXPECT_THAT(source.done(connect), ElementsAre("send commit"));
  EXPECT_THAT(source.done(send), IsEmpty());
  EXPECT_THAT(source.hears(Message::committed), ElementsAre("redirect"));
}

TEST(PlanSourceCommitted, AServingSourceConnectsAgainToHearComplete) {
  SourceDrive source;
  source.to_serving().done(redirect);
  source.loses_connection();
  source.done(wait_retry);
  EXPECT_THAT(source.done(connect), ElementsAre("send commit"));
  source.done(send);
  EXPECT_THAT(source.hears(Message::committed), IsEmpty()) << "redirected once";
  EXPECT_THAT(source.hears(Message::complete), ElementsAre("record complete"));
}

TEST(PlanSourceCommitted, TriesToConnectWithoutEnd) {
  SourceDrive source;
  source.to_committed().loses_connection();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_THAT(source.done(wait_retry), ElementsAre("connect"));
    ASSERT_THAT(source.done(connect, "unreachable"), ElementsAre("wait_retry"));
  }
  EXPECT_EQ(source.state.phase, SourcePhase::committed);
  EXPECT_FALSE(source.state.deadline) << "no wait after the commit has an end";
}

TEST(PlanSourceCommitted, ASendThatFailsIsALostConnection) {
  SourceDrive source;
  source.to_committing().done(record);
  EXPECT_THAT(source.done(send, "broken pipe"), ElementsAre("wait_retry"));
  EXPECT_THAT(source.loses_connection(), IsEmpty()) << "the same loss, told twice";
}

TEST(PlanSourceCommitted, TheConnectionMayGoWhileTheCommitIsBeingWritten) {
  SourceDrive source;
  source.to_committing();
  EXPECT_THAT(source.loses_connection(), IsEmpty());
  EXPECT_THAT(source.done(record), ElementsAre("connect"));
  EXPECT_THAT(source.done(connect), ElementsAre("send commit"));
}

TEST(PlanSourceCommitted, ACancelComesTooLate) {
  for (bool recorded : {false, true}) {
    SourceDrive source;
    source.to_committing();
    if (recorded) source.done(record);
    EXPECT_THAT(source.play(CancelRequested{}), IsEmpty());
    EXPECT_FALSE(before_commit(source.state));
    EXPECT_NE(source.state.phase, SourcePhase::aborting);
  }
}

TEST(PlanSourceCommitted, NoTickLeadsBack) {
  SourceDrive source;
  source.to_serving();
  source.now += std::chrono::hours(1000);
  EXPECT_THAT(source.play(Tick{}), IsEmpty());
  EXPECT_EQ(source.state.phase, SourcePhase::serving);
}

TEST(PlanSourceCommitted, WhatTheDestinationReportsIsKeptForTheOperator) {
  SourceDrive source;
  source.to_committed();
  EXPECT_THAT(source.hears(Message::failed, "no memory for the thaw"), IsEmpty());
  EXPECT_THAT(source.state.reason, HasSubstr("no memory for the thaw"));
  EXPECT_EQ(source.state.phase, SourcePhase::committed);
  source.hears(Message::committed);
  EXPECT_EQ(source.state.reason, "") << "it worked in the end";
}

TEST(PlanSourceCommitted, ARedirectThatFailsIsTriedAgainThenReported) {
  SourceDrive source;
  source.to_serving();
  for (unsigned i = 1; i < kRedirectAttempts; ++i) {
    ASSERT_THAT(source.done(redirect, "no such device"), ElementsAre("wait_retry"));
    ASSERT_THAT(source.done(wait_retry), ElementsAre("redirect"));
  }
  source.done(redirect, "no such device");
  source.done(wait_retry);
  EXPECT_EQ(source.state.phase, SourcePhase::serving) << "pages are served all the same";
  EXPECT_THAT(source.hears(Message::complete), ElementsAre("record complete"));
  EXPECT_THAT(source.done(record), ElementsAre("kill_source"));
  source.done(kill_source);
  source.done(record);
  source.done(send);
  EXPECT_EQ(source.state.outcome, Outcome::failed_after_commit);
  EXPECT_THAT(source.state.reason, HasSubstr("no such device"));
}

TEST(PlanSourceCommitted, AKillThatFailsIsTriedAgainThenLeftToRecover) {
  SourceDrive source;
  source.to_finishing();
  for (unsigned i = 1; i < kKillAttempts; ++i) {
    ASSERT_THAT(source.done(kill_source, "busy"), ElementsAre("wait_retry"));
    ASSERT_THAT(source.done(wait_retry), ElementsAre("kill_source"));
  }
  EXPECT_THAT(source.done(kill_source, "busy"), ElementsAre("close")) << "no `finished`, so that a restart tries again";
  EXPECT_EQ(source.state.outcome, Outcome::failed_after_commit);
  EXPECT_FALSE(nothing_left(source.state)) << "the journal must stay";
  EXPECT_THAT(source.state.reason, HasSubstr("mose recover"));
}

TEST(PlanSourceCommitted, AJournalThatCannotBeClosedDoesNotChangeTheOutcome) {
  SourceDrive source;
  source.to_finishing().done(kill_source);
  EXPECT_THAT(source.done(record, "disk full"), ElementsAre("send released"));
  source.done(send);
  EXPECT_EQ(source.state.outcome, Outcome::complete);
  EXPECT_THAT(source.state.reason, HasSubstr("disk full"));
}

TEST(PlanSourceCommitted, WithoutAConnectionReleasedIsNotWaitedFor) {
  SourceDrive source;
  source.to_finishing().loses_connection();
  source.done(kill_source);
  EXPECT_THAT(source.done(record), ElementsAre("close"));
}

// ---- What cannot be

TEST(PlanSource, AnImpossibleEventChangesNothing) {
  SourceDrive source;
  source.to_dumping();
  SourceState before = source.state;
  for (Message message : {Message::prepared, Message::committed, Message::complete, Message::aborted, Message::prepare,
                          Message::images, Message::commit, Message::abort, Message::released}) {
    EXPECT_THAT(source.hears(message), IsEmpty()) << to_string(message);
    EXPECT_EQ(source.state.phase, before.phase);
    EXPECT_EQ(source.state.running, before.running);
  }
  for (SourceActionKind kind : {preflight, connect, precopy_round, arm_dump, resume_source, kill_source, close}) {
    EXPECT_THAT(source.done(kind, "late"), IsEmpty()) << to_string(kind);
    EXPECT_EQ(source.state.phase, before.phase);
  }
  EXPECT_THAT(source.play(Tick{}), IsEmpty()) << "before the deadline";
  EXPECT_EQ(source.state.deadline, before.deadline);
}

TEST(PlanSource, ReadyBeforeTheDumpIsIgnored) {
  SourceDrive source;
  source.to_precopy().hears(Message::ready);
  EXPECT_FALSE(source.state.ready_seen);
}

TEST(PlanSource, CommittedBeforeTheCommitIsIgnored) {
  SourceDrive source;
  source.to_committing().hears(Message::committed);
  source.hears(Message::complete);
  source.done(record);
  EXPECT_EQ(source.state.phase, SourcePhase::committed);
  EXPECT_FALSE(source.state.complete_seen);
}

TEST(PlanSource, EveryValueHasAName) {
  for (int i = 0; i <= static_cast<int>(SourcePhase::done); ++i) {
    EXPECT_STRNE(to_string(static_cast<SourcePhase>(i)), "?");
  }
  for (int i = 0; i <= static_cast<int>(close); ++i) EXPECT_STRNE(to_string(static_cast<SourceActionKind>(i)), "?");
  for (int i = 0; i <= static_cast<int>(Message::aborted); ++i) EXPECT_STRNE(to_string(static_cast<Message>(i)), "?");
  for (int i = 0; i <= static_cast<int>(Record::finished); ++i) EXPECT_STRNE(to_string(static_cast<Record>(i)), "?");
  for (int i = 0; i <= static_cast<int>(Verdict::abort); ++i) EXPECT_STRNE(to_string(static_cast<Verdict>(i)), "?");
}

}  // namespace
}  // namespace mose::plan::test
