// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/plan/drive.h"

// The destination's half, one rule per test.
namespace mose::plan::test {
namespace {

using enum DestinationActionKind;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

DestinationDrive begins() {
  return DestinationDrive(start_destination(Timestamp{}));
}
DestinationDrive recovers(const std::vector<Record>& records) {
  return DestinationDrive(recover_destination(records, Timestamp{}));
}
DestinationDrive prepared() {
  DestinationDrive d = begins();
  d.done(record);
  d.done(prepare);
  d.done(send);
  return d;
}
DestinationDrive restoring() {
  DestinationDrive d = prepared();
  d.hears(Message::images);
  return d;
}
DestinationDrive fenced() {
  DestinationDrive d = restoring();
  d.done(restore);
  d.done(record);
  d.done(send);
  return d;
}
DestinationDrive running() {
  DestinationDrive d = fenced();
  d.hears(Message::commit);
  d.done(record);
  d.done(activate);
  d.done(send);
  return d;
}
DestinationDrive finishing() {
  DestinationDrive d = running();
  d.play(PagesComplete{});
  d.done(record);
  d.done(send);
  return d;
}

// ---- The way forward

TEST(PlanDestination, WritesTheBeginningBeforeItTouchesTheHost) {
  DestinationDrive d = begins();
  EXPECT_THAT(d.actions, ElementsAre("record begun"));
  EXPECT_THAT(d.done(record), ElementsAre("prepare"));
  EXPECT_THAT(d.done(prepare), ElementsAre("send prepared"));
  EXPECT_EQ(d.state.phase, DestinationPhase::prepared);
}

TEST(PlanDestination, RestoresWhenTheImagesCome) {
  DestinationDrive d = prepared();
  EXPECT_EQ(d.state.deadline, d.now + kImagesDeadline);
  EXPECT_THAT(d.hears(Message::images), ElementsAre("restore"));
  EXPECT_FALSE(d.state.deadline);
  EXPECT_THAT(d.hears(Message::images), IsEmpty()) << "once";
}

TEST(PlanDestination, WaitsAsLongAsPagesCome) {
  DestinationDrive d = prepared();
  d.now += kImagesDeadline - std::chrono::seconds(1);
  EXPECT_THAT(d.play(PagesArriving{}), IsEmpty());
  EXPECT_EQ(d.state.deadline, d.now + kImagesDeadline);
  d.now += std::chrono::seconds(2);
  EXPECT_THAT(d.play(Tick{}), IsEmpty());
  EXPECT_EQ(d.state.phase, DestinationPhase::prepared);
  d.now += kImagesDeadline;
  d.play(Tick{});
  EXPECT_EQ(d.state.phase, DestinationPhase::discarding);
}

TEST(PlanDestination, ArrivingPagesBoundNothingLater) {
  DestinationDrive d = restoring();
  EXPECT_THAT(d.play(PagesArriving{}), IsEmpty());
  EXPECT_FALSE(d.state.deadline);
}

TEST(PlanDestination, SaysReadyOnlyWhenThatIsDurable) {
  DestinationDrive d = restoring();
  EXPECT_THAT(d.done(restore), ElementsAre("record ready"));
  EXPECT_EQ(d.state.phase, DestinationPhase::restoring);
  EXPECT_THAT(d.done(record), ElementsAre("send ready"));
  EXPECT_EQ(d.state.phase, DestinationPhase::fenced);
}

TEST(PlanDestination, ThawsOnlyWhenTheCommitIsDurable) {
  DestinationDrive d = fenced();
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("record commit"));
  EXPECT_EQ(d.state.phase, DestinationPhase::activating);
  EXPECT_THAT(d.done(record), ElementsAre("activate"));
  EXPECT_THAT(d.done(activate), ElementsAre("send committed"));
  EXPECT_EQ(d.state.phase, DestinationPhase::running);
}

TEST(PlanDestination, FinishesWhenEveryPageIsIn) {
  DestinationDrive d = running();
  EXPECT_THAT(d.play(PagesComplete{}), ElementsAre("record complete"));
  EXPECT_THAT(d.done(record), ElementsAre("send complete", "finish"));
  EXPECT_EQ(d.state.phase, DestinationPhase::finishing);
  d.done(send);
  EXPECT_THAT(d.done(finish), IsEmpty());
  EXPECT_THAT(d.hears(Message::released), ElementsAre("record finished"));
  EXPECT_THAT(d.done(record), IsEmpty());
  EXPECT_EQ(d.state.phase, DestinationPhase::done);
  EXPECT_EQ(d.state.outcome, Outcome::complete);
  EXPECT_TRUE(nothing_left(d.state));
}

TEST(PlanDestination, ATreeThatEndsBeforeItsMemoryIsCompleteIsLost) {
  DestinationDrive d = running();
  EXPECT_THAT(d.play(TreeEnded{"stopped"}), ElementsAre("record lost"));
  EXPECT_THAT(d.done(record), ElementsAre("send complete", "discard"));
  EXPECT_EQ(d.state.phase, DestinationPhase::finishing);
  d.done(send);
  EXPECT_THAT(d.done(discard), IsEmpty());
  EXPECT_THAT(d.hears(Message::released), ElementsAre("record finished"));
  d.done(record);
  EXPECT_EQ(d.state.outcome, Outcome::lost);
  EXPECT_EQ(d.state.reason, "stopped");
  EXPECT_TRUE(nothing_left(d.state));
}

TEST(PlanDestination, ALostTreeWaitsForNoSourceThatIsGone) {
  DestinationDrive d = running();
  d.play(ConnectionLost{});
  d.play(TreeEnded{"stopped"});
  d.done(record);
  d.done(send);
  EXPECT_THAT(d.done(discard), ElementsAre("record finished"));
}

TEST(PlanDestination, ATreeThatEndsCompleteIsNotLost) {
  DestinationDrive d = running();
  d.play(PagesComplete{});
  EXPECT_THAT(d.play(TreeEnded{"stopped"}), IsEmpty());
  EXPECT_EQ(d.state.outcome, Outcome::complete);
}

// Its record of being ready need not have outlived the machine.
TEST(PlanDestinationRecovery, ATreeThatIsGoneBeforeItRanGivesTheCommitBack) {
  DestinationDrive d = recovers({Record::begun});
  d.done(record);
  EXPECT_THAT(d.hears(Message::commit), IsEmpty()) << "not before everything is discarded";
  EXPECT_THAT(d.done(discard), UnorderedElementsAre("record finished", "send aborted"));
  d.done(record);
  d.done(send);
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send aborted"));
}

TEST(PlanDestinationRecovery, AFencedTreeThatIsGoneIsDiscardedAndGivesTheCommitBack) {
  DestinationDrive d = recovers({Record::begun, Record::ready});
  EXPECT_THAT(d.play(TreeEnded{"the machine was started again"}), ElementsAre("record aborted"));
  EXPECT_THAT(d.hears(Message::commit), IsEmpty());
  EXPECT_THAT(d.done(record), ElementsAre("discard"));
  EXPECT_THAT(d.done(discard), Contains("send aborted"));
}

TEST(PlanDestinationRecovery, ALostTreeIsThrownAwayAndTheSourceHearsOfIt) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::commit, Record::lost});
  EXPECT_THAT(d.actions, ElementsAre("discard"));
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send committed"));
  EXPECT_THAT(d.done(send), ElementsAre("send complete"));
  EXPECT_EQ(d.state.outcome, Outcome::lost);
}

TEST(PlanDestination, PagesMayBeCompleteBeforeItRuns) {
  DestinationDrive d = prepared();
  EXPECT_THAT(d.play(PagesComplete{}), IsEmpty());
  d.hears(Message::images);
  d.done(restore);
  d.done(record);
  d.done(send);
  d.hears(Message::commit);
  d.done(record);
  EXPECT_THAT(d.done(activate), ElementsAre("send committed", "record complete"));
}

TEST(PlanDestination, ReleasedMayOvertakeTheFinish) {
  DestinationDrive d = finishing();
  EXPECT_THAT(d.hears(Message::released), IsEmpty());
  EXPECT_THAT(d.done(finish), ElementsAre("record finished"));
}

TEST(PlanDestination, WithoutReleasedItEndsAfterAWhile) {
  DestinationDrive d = finishing();
  d.done(finish);
  EXPECT_EQ(d.state.deadline, d.now + kReleasedDeadline);
  EXPECT_THAT(d.waits_out(), ElementsAre("record finished"));
}

TEST(PlanDestination, ReleasedBeforeCompleteIsIgnored) {
  DestinationDrive d = running();
  EXPECT_THAT(d.hears(Message::released), IsEmpty());
  EXPECT_FALSE(d.state.released_seen);
}

// ---- COMMIT again

TEST(PlanDestinationCommit, IsAnsweredAgainWhileItRuns) {
  DestinationDrive d = running();
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send committed"));
}

TEST(PlanDestinationCommit, ComingTwiceBeforeTheThawIsAnsweredOnce) {
  DestinationDrive d = fenced();
  d.hears(Message::commit);
  EXPECT_THAT(d.hears(Message::commit), IsEmpty());
  EXPECT_THAT(d.done(record), ElementsAre("activate"));
  EXPECT_THAT(d.hears(Message::commit), IsEmpty());
  EXPECT_THAT(d.done(activate), ElementsAre("send committed"));
}

TEST(PlanDestinationCommit, IsAnsweredWithCompleteTooWhenThatIsSo) {
  DestinationDrive d = finishing();
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send committed"));
  EXPECT_THAT(d.done(send), ElementsAre("send complete")) << "one send at a time";
}

TEST(PlanDestinationCommit, IsAnsweredByAnEndedMigration) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::commit, Record::complete, Record::finished});
  EXPECT_EQ(d.state.phase, DestinationPhase::done);
  EXPECT_EQ(d.state.outcome, Outcome::complete);
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send committed"));
  EXPECT_THAT(d.done(send), ElementsAre("send complete"));
}

TEST(PlanDestinationCommit, BeforeReadyIsAViolationAndIgnored) {
  for (DestinationDrive d : {begins(), prepared(), restoring()}) {
    DestinationPhase phase = d.state.phase;
    EXPECT_THAT(d.hears(Message::commit), ElementsAre("send failed"));
    EXPECT_EQ(d.state.phase, phase);
  }
}

TEST(PlanDestinationCommit, ForAMigrationThatIsUnknownFails) {
  DestinationDrive d = recovers({});
  EXPECT_THAT(d.actions, IsEmpty());
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send failed"));
  EXPECT_THAT(d.reasons.front(), HasSubstr("unknown"));
}

TEST(PlanDestinationCommit, IsTriedUntilItIsDurable) {
  DestinationDrive d = fenced();
  d.hears(Message::commit);
  EXPECT_THAT(d.done(record, "disk full"), ElementsAre("send failed"));
  EXPECT_EQ(d.state.deadline, d.now + kRetryPause);
  d.done(send);
  for (int i = 0; i < 100; ++i) {
    ASSERT_THAT(d.waits_out(), ElementsAre("record commit"));
    ASSERT_THAT(d.done(record, "disk full"), IsEmpty()) << "the source hears of it once";
  }
  EXPECT_THAT(d.waits_out(), ElementsAre("record commit"));
  EXPECT_THAT(d.done(record), ElementsAre("activate"));
}

TEST(PlanDestinationCommit, AThawThatFailsIsTriedAgain) {
  DestinationDrive d = fenced();
  d.hears(Message::commit);
  d.done(record);
  EXPECT_THAT(d.done(activate, "busy"), ElementsAre("send failed"));
  EXPECT_THAT(d.reasons.front(), HasSubstr("busy"));
  d.done(send);
  EXPECT_THAT(d.waits_out(), ElementsAre("activate"));
  EXPECT_THAT(d.done(activate), ElementsAre("send committed"));
  EXPECT_EQ(d.state.reason, "");
}

// ---- A tree that ends before it was thawed

TEST(PlanDestinationFence, ATreeThatEndsIsDiscardedAndTheSourceHearsOfItAtOnce) {
  DestinationDrive d = fenced();
  EXPECT_THAT(d.play(TreeEnded{"killed"}), ElementsAre("send failed", "record aborted"));
  EXPECT_THAT(d.reasons.front(), HasSubstr("killed"));
  d.done(send);
  EXPECT_THAT(d.hears(Message::commit), IsEmpty()) << "not before the abort is on the disk, and everything discarded";
  EXPECT_THAT(d.done(record), ElementsAre("discard"));
  EXPECT_THAT(d.done(discard), UnorderedElementsAre("record finished", "send aborted"));
}

TEST(PlanDestinationFence, ATreeThatEndsWhileReadyIsWrittenIsDiscarded) {
  DestinationDrive d = restoring();
  EXPECT_THAT(d.play(TreeEnded{"killed"}), IsEmpty()) << "the end of the restore says so";
  d.done(restore);
  EXPECT_THAT(d.play(TreeEnded{"killed"}), UnorderedElementsAre("send failed", "discard"));
  EXPECT_THAT(d.done(record), ElementsAre("record aborted")) << "and no READY";
}

TEST(PlanDestinationFence, ATreeThatEndsWhileTheCommitIsWrittenGivesItBack) {
  for (const char* error : {"", "disk full"}) {
    DestinationDrive d = fenced();
    d.play(PagesComplete{});
    d.hears(Message::commit);
    EXPECT_THAT(d.play(TreeEnded{"killed"}), IsEmpty());
    EXPECT_THAT(d.done(record, error), ElementsAre("record aborted"));
    EXPECT_THAT(d.done(record), ElementsAre("discard"));
    EXPECT_THAT(d.done(discard), UnorderedElementsAre("record finished", "send aborted"));
    d.done(send);
    d.done(record);
    EXPECT_EQ(d.state.outcome, Outcome::failed);
    EXPECT_TRUE(nothing_left(d.state));
    EXPECT_THAT(d.hears(Message::commit), ElementsAre("send aborted"));
  }
}

TEST(PlanDestinationFence, NothingToThawGivesTheCommitBack) {
  DestinationDrive d = fenced();
  d.play(PagesComplete{});
  d.hears(Message::commit);
  d.done(record);
  EXPECT_THAT(d.play(DestinationActionDone{.kind = activate, .error = "killed", .tree_gone = true}), ElementsAre("record aborted"));
  EXPECT_THAT(d.done(record), ElementsAre("discard"));
  EXPECT_THAT(d.done(discard), UnorderedElementsAre("record finished", "send aborted"));
}

// Whoever found the commit alone would take the tree for one that has run.
TEST(PlanDestinationFence, ACommitThatIsGivenBackIsNotFinishedBeforeThatIsWritten) {
  DestinationDrive d = fenced();
  d.hears(Message::commit);
  d.done(record);
  d.play(DestinationActionDone{.kind = activate, .error = "killed", .tree_gone = true});
  EXPECT_THAT(d.done(record, "disk full"), ElementsAre("discard"));
  EXPECT_THAT(d.done(discard), UnorderedElementsAre("record aborted", "send aborted")) << "it is true whatever the disk says";
  d.done(send);
  EXPECT_THAT(d.done(record, "disk full"), IsEmpty());
  EXPECT_THAT(d.waits_out(), ElementsAre("record aborted"));
  EXPECT_THAT(d.done(record), ElementsAre("record finished"));
}

// A first attempt has thawed it and then failed: clients may have had answers.
TEST(PlanDestinationFence, ATreeThatMayHaveRunIsLost) {
  DestinationDrive d = fenced();
  d.play(PagesComplete{});
  d.hears(Message::commit);
  d.done(record);
  d.done(activate, "its network is not open");
  d.done(send);
  EXPECT_THAT(d.waits_out(), ElementsAre("activate"));
  EXPECT_THAT(d.play(DestinationActionDone{.kind = activate, .error = "killed", .tree_gone = true}), ElementsAre("record lost"));
  EXPECT_EQ(d.state.outcome, Outcome::lost);
}

TEST(PlanDestinationRecovery, ACommitThatWasGivenBackStaysSo) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::commit, Record::aborted});
  EXPECT_THAT(d.actions, ElementsAre("discard"));
  EXPECT_THAT(d.hears(Message::commit), IsEmpty());
  EXPECT_THAT(d.done(discard), UnorderedElementsAre("record finished", "send aborted"));
  d.done(record);
  EXPECT_EQ(d.state.outcome, Outcome::failed);
}

TEST(PlanDestinationRecovery, ACommittedTreeThatIsGoneIsLost) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::commit});
  EXPECT_THAT(d.play(TreeEnded{"the machine was started again"}), IsEmpty());
  EXPECT_THAT(d.play(DestinationActionDone{.kind = activate, .error = "gone", .tree_gone = true}), ElementsAre("record lost"));
}

TEST(PlanDestinationCommit, ALostConnectionAfterItChangesNothing) {
  for (DestinationDrive d : {running(), finishing()}) {
    DestinationPhase phase = d.state.phase;
    EXPECT_THAT(d.loses_connection(), IsEmpty());
    EXPECT_EQ(d.state.phase, phase);
  }
}

TEST(PlanDestinationCommit, ACompletionIsTriedUntilItIsDurable) {
  DestinationDrive d = running();
  d.play(PagesComplete{});
  EXPECT_THAT(d.done(record, "disk full"), ElementsAre("send failed"));
  d.done(send);
  EXPECT_THAT(d.waits_out(), ElementsAre("record complete"));
  EXPECT_THAT(d.done(record), ElementsAre("send complete", "finish"));
}

TEST(PlanDestinationCommit, AFinishThatFailsIsTriedAgainThenLeftToRecover) {
  DestinationDrive d = finishing();
  for (unsigned i = 1; i < kFinishAttempts; ++i) {
    ASSERT_THAT(d.done(finish, "busy"), IsEmpty());
    ASSERT_THAT(d.waits_out(), ElementsAre("finish"));
  }
  EXPECT_THAT(d.done(finish, "busy"), IsEmpty()) << "no `finished`: a restart tries again";
  EXPECT_EQ(d.state.phase, DestinationPhase::done);
  EXPECT_EQ(d.state.outcome, Outcome::failed_after_commit);
  EXPECT_FALSE(nothing_left(d.state)) << "the journal must stay";
  EXPECT_THAT(d.state.reason, HasSubstr("mose recover"));
}

// ---- The way back

TEST(PlanDestinationAbort, APreparationThatFailsRefusesWithTheReasonAndDiscards) {
  DestinationDrive d = begins();
  d.done(record);
  EXPECT_THAT(d.done(prepare, "address 192.0.2.10 is used here"),
              testing::UnorderedElementsAre("send refused", "record aborted", "discard"));
  EXPECT_EQ(d.state.reason, "address 192.0.2.10 is used here");
  d.done(send);
  d.done(record);
  EXPECT_THAT(d.done(discard), ElementsAre("record finished"));
  d.done(record);
  EXPECT_EQ(d.state.phase, DestinationPhase::done);
  EXPECT_EQ(d.state.outcome, Outcome::failed);
}

TEST(PlanDestinationAbort, AJournalThatCannotBeWrittenRefuses) {
  DestinationDrive d = begins();
  EXPECT_THAT(d.done(record, "disk full"), Contains("send refused"));
  EXPECT_EQ(d.state.phase, DestinationPhase::discarding);
}

TEST(PlanDestinationAbort, WaitsForThePreparationBeforeItDiscards) {
  DestinationDrive d = begins();
  d.done(record);
  EXPECT_THAT(d.hears(Message::abort), ElementsAre("record aborted"));
  d.done(record);
  EXPECT_THAT(d.done(prepare), ElementsAre("discard"));
  EXPECT_THAT(d.done(discard), testing::UnorderedElementsAre("send aborted", "record finished"));
}

TEST(PlanDestinationAbort, DiscardsARestoreUnderWayAtOnce) {
  DestinationDrive d = restoring();
  EXPECT_THAT(d.hears(Message::abort), testing::UnorderedElementsAre("record aborted", "discard"));
  d.done(record);
  EXPECT_THAT(d.done(discard), ElementsAre("send aborted")) << "the end waits for the restore";
  EXPECT_THAT(d.done(restore, "ended by discard"), ElementsAre("record finished"));
}

TEST(PlanDestinationAbort, AFencedTreeIsDiscardedAfterTheRecordThenAnswered) {
  DestinationDrive d = fenced();
  EXPECT_THAT(d.hears(Message::abort, "cancelled"), ElementsAre("record aborted"));
  EXPECT_THAT(d.done(record), ElementsAre("discard"));
  EXPECT_THAT(d.done(discard), testing::UnorderedElementsAre("send aborted", "record finished"));
  EXPECT_THAT(d.state.reason, HasSubstr("cancelled"));
}

TEST(PlanDestinationAbort, AFencedTreeIsDiscardedEvenWhenTheRecordFails) {
  DestinationDrive d = fenced();
  d.hears(Message::abort);
  EXPECT_THAT(d.done(record, "disk full"), ElementsAre("discard"));
}

TEST(PlanDestinationAbort, ALostConnectionBeforeReadyDiscards) {
  for (DestinationDrive d : {prepared(), restoring()}) {
    EXPECT_THAT(d.loses_connection(), testing::UnorderedElementsAre("record aborted", "discard"));
  }
  DestinationDrive d = begins();
  EXPECT_THAT(d.loses_connection(), ElementsAre("discard"));
  EXPECT_THAT(d.done(record), ElementsAre("record aborted"));
}

TEST(PlanDestinationAbort, ALostConnectionWhileReadyIsBeingWrittenDiscards) {
  DestinationDrive d = restoring();
  d.done(restore);
  EXPECT_THAT(d.loses_connection(), ElementsAre("discard"));
  EXPECT_THAT(d.done(record), ElementsAre("record aborted")) << "READY is not sent any more";
}

TEST(PlanDestinationAbort, AFailedRestoreIsReportedAndDiscarded) {
  DestinationDrive d = restoring();
  EXPECT_THAT(d.done(restore, "no such file"),
              testing::UnorderedElementsAre("send failed", "record aborted", "discard"));
  EXPECT_THAT(d.state.reason, HasSubstr("no such file"));
}

TEST(PlanDestinationAbort, AReadyThatCannotBeWrittenIsAFailure) {
  DestinationDrive d = restoring();
  d.done(restore);
  EXPECT_THAT(d.done(record, "disk full"), testing::UnorderedElementsAre("send failed", "record aborted", "discard"));
}

TEST(PlanDestinationAbort, ImagesThatNeverComeEndTheWait) {
  DestinationDrive d = prepared();
  EXPECT_THAT(d.waits_out(), Contains("discard"));
  EXPECT_THAT(d.actions, Contains("send failed"));
}

TEST(PlanDestinationAbort, AfterTheCommitIsAViolationAndIgnored) {
  DestinationDrive activating = fenced();
  activating.hears(Message::commit);
  for (DestinationDrive d : {activating, running(), finishing()}) {
    DestinationPhase phase = d.state.phase;
    EXPECT_THAT(d.hears(Message::abort), ElementsAre("send failed"));
    EXPECT_THAT(d.reasons.front(), HasSubstr("ABORT after COMMIT"));
    EXPECT_EQ(d.state.phase, phase);
  }
}

TEST(PlanDestinationAbort, IsAnsweredAgainByAnEndedOrUnknownMigration) {
  for (DestinationDrive d : {recovers({}), recovers({Record::begun, Record::aborted, Record::finished})}) {
    EXPECT_THAT(d.hears(Message::abort), ElementsAre("send aborted"));
    d.done(send);
    EXPECT_THAT(d.hears(Message::abort), ElementsAre("send aborted"));
  }
}

TEST(PlanDestinationAbort, ADiscardThatFailsIsTriedAgainThenLeftToRecover) {
  DestinationDrive d = restoring();
  d.hears(Message::abort);
  d.done(record);
  d.done(restore, "ended");
  for (unsigned i = 1; i < kDiscardAttempts; ++i) {
    ASSERT_THAT(d.done(discard, "busy"), IsEmpty());
    ASSERT_THAT(d.waits_out(), ElementsAre("discard"));
  }
  EXPECT_THAT(d.done(discard, "busy"), IsEmpty()) << "neither answered nor finished";
  EXPECT_EQ(d.state.phase, DestinationPhase::done);
  EXPECT_EQ(d.state.outcome, Outcome::unknown);
  EXPECT_FALSE(nothing_left(d.state)) << "the journal must stay";
  EXPECT_THAT(d.state.reason, HasSubstr("mose recover"));
}

// ---- The fence

TEST(PlanDestinationFence, HoldsWhenTheConnectionIsLostAndAsksForTheVerdict) {
  DestinationDrive d = fenced();
  EXPECT_THAT(d.loses_connection(), ElementsAre("query_verdict"));
  EXPECT_EQ(d.state.phase, DestinationPhase::fenced);
}

TEST(PlanDestinationFence, AsksAgainWithoutEndWhileNobodyKnows) {
  DestinationDrive d = fenced();
  d.loses_connection();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_THAT(d.done(query_verdict, "unreachable"), IsEmpty());
    ASSERT_EQ(d.state.deadline, d.now + kRetryPause);
    ASSERT_THAT(d.waits_out(), ElementsAre("query_verdict"));
  }
  EXPECT_EQ(d.state.phase, DestinationPhase::fenced);
}

TEST(PlanDestinationFence, AVerdictByAnswerCountsLikeOneByMessage) {
  DestinationDrive commit = fenced();
  commit.loses_connection();
  EXPECT_THAT(commit.hears(Message::commit), ElementsAre("record commit"));
  EXPECT_THAT(commit.done(query_verdict), IsEmpty());
  DestinationDrive abort = fenced();
  abort.loses_connection();
  EXPECT_THAT(abort.hears(Message::abort), ElementsAre("record aborted"));
  EXPECT_THAT(abort.done(record), ElementsAre("discard"));
}

TEST(PlanDestinationFence, DoesNotAskOnAConnectionThatStands) {
  DestinationDrive d = fenced();
  EXPECT_FALSE(d.state.deadline);
  EXPECT_THAT(d.actions, Not(Contains("query_verdict")));
}

// ---- Recovery

TEST(PlanDestinationRecovery, WithoutReadyEverythingIsDiscarded) {
  DestinationDrive d = recovers({Record::begun});
  EXPECT_THAT(d.actions, testing::UnorderedElementsAre("record aborted", "discard"));
  d.done(record);
  EXPECT_THAT(d.done(discard), ElementsAre("record finished"));
}

TEST(PlanDestinationRecovery, ReadyWithoutAVerdictStaysFencedAndAsks) {
  DestinationDrive d = recovers({Record::begun, Record::ready});
  EXPECT_EQ(d.state.phase, DestinationPhase::fenced);
  EXPECT_THAT(d.actions, ElementsAre("query_verdict"));
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("record commit"));
}

TEST(PlanDestinationRecovery, ACommittedTreeIsActivatedAgainAndGoesOn) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::commit});
  EXPECT_THAT(d.actions, ElementsAre("activate"));
  EXPECT_THAT(d.done(activate), ElementsAre("send committed"));
  EXPECT_THAT(d.play(PagesComplete{}), ElementsAre("record complete"));
}

TEST(PlanDestinationRecovery, ACompleteMigrationIsFinished) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::commit, Record::complete});
  EXPECT_THAT(d.actions, ElementsAre("finish"));
  EXPECT_THAT(d.hears(Message::commit), ElementsAre("send committed"));
}

TEST(PlanDestinationRecovery, AnAbortedMigrationIsDiscardedAgain) {
  DestinationDrive d = recovers({Record::begun, Record::ready, Record::aborted});
  EXPECT_THAT(d.actions, ElementsAre("discard"));
}

TEST(PlanDestination, AnImpossibleEventChangesNothing) {
  DestinationDrive d = fenced();
  for (Message message : {Message::prepare, Message::images, Message::released, Message::prepared, Message::ready,
                          Message::committed, Message::aborted}) {
    EXPECT_THAT(d.hears(message), IsEmpty()) << to_string(message);
    EXPECT_EQ(d.state.phase, DestinationPhase::fenced);
  }
  for (DestinationActionKind kind : {prepare, restore, activate, discard, finish, query_verdict, record, send}) {
    EXPECT_THAT(d.done(kind, "late"), IsEmpty()) << to_string(kind);
  }
  EXPECT_THAT(d.play(Tick{}), IsEmpty());
  EXPECT_EQ(d.state.phase, DestinationPhase::fenced);
}

TEST(PlanDestination, EveryValueHasAName) {
  for (int i = 0; i <= static_cast<int>(DestinationPhase::done); ++i) {
    EXPECT_STRNE(to_string(static_cast<DestinationPhase>(i)), "?");
  }
  for (int i = 0; i <= static_cast<int>(query_verdict); ++i) {
    EXPECT_STRNE(to_string(static_cast<DestinationActionKind>(i)), "?");
  }
}

}  // namespace
}  // namespace mose::plan::test
