// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/plan/drive.h"

// The way back of the source's half: refusal, cancel, failure, recovery.
namespace mose::plan::test {
namespace {

using enum SourceActionKind;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Ends of an abort whose record is under way and whose destination answers.
void abort_ends(SourceDrive& source) {
  source.done(record);
  source.done(resume_source);
  source.done(send);
  source.hears(Message::aborted);
  for (SourceActionKind kind : {arm_dump, quiesce, freeze, dump, final_scan, finish_dump, precopy_round})
    source.done(kind, "ended");
  source.done(record);
}

TEST(PlanSourceRefusal, APreflightThatFailsRefusesAndTouchesNothing) {
  SourceDrive source;
  EXPECT_THAT(source.done(preflight, "process 12 has a tty open; start it without one"), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::refused);
  EXPECT_EQ(source.state.reason, "process 12 has a tty open; start it without one");
  EXPECT_TRUE(nothing_left(source.state));
}

TEST(PlanSourceRefusal, AJournalThatCannotBeWrittenRefuses) {
  SourceDrive source;
  source.done(preflight);
  source.done(record, "no space left on device");
  EXPECT_EQ(source.state.phase, SourcePhase::aborting);
  source.done(record, "no space left on device");
  source.done(record, "no space left on device");
  EXPECT_EQ(source.state.phase, SourcePhase::done);
  EXPECT_EQ(source.state.outcome, Outcome::refused);
  EXPECT_THAT(source.state.reason, HasSubstr("no space left on device"));
}

TEST(PlanSourceRefusal, ADestinationThatCannotBeReachedRefuses) {
  SourceDrive source;
  source.to_begun();
  EXPECT_THAT(source.done(connect, "connection refused"), ElementsAre("record aborted"));
  EXPECT_THAT(source.done(record), ElementsAre("record finished")) << "nobody to tell, nothing to resume";
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::refused);
  EXPECT_THAT(source.state.reason, HasSubstr("connection refused"));
}

TEST(PlanSourceRefusal, ARefusalOfTheDestinationIsARefusal) {
  SourceDrive source;
  source.to_prepare_sent();
  EXPECT_THAT(source.hears(Message::refused, "address 192.0.2.10 is used here"), ElementsAre("record aborted"));
  EXPECT_THAT(source.done(record), ElementsAre("record finished")) << "it has undone itself";
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::refused);
  EXPECT_EQ(source.state.reason, "address 192.0.2.10 is used here");
}

TEST(PlanSourceCancel, DuringPreflightEndsWithoutAJournal) {
  SourceDrive source;
  EXPECT_THAT(source.play(CancelRequested{}), IsEmpty());
  EXPECT_FALSE(settled(source.state));
  EXPECT_THAT(source.done(preflight), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::cancelled);
}

TEST(PlanSourceCancel, WaitsForTheFirstRecordBeforeItWritesTheSecond) {
  SourceDrive source;
  source.done(preflight);
  EXPECT_THAT(source.play(CancelRequested{}), IsEmpty());
  EXPECT_THAT(source.done(record), ElementsAre("record aborted"));
}

TEST(PlanSourceCancel, DuringPrecopyResumesNothing) {
  SourceDrive source;
  source.to_precopy();
  EXPECT_THAT(source.play(CancelRequested{}), ElementsAre("record aborted", "send abort"));
  EXPECT_THAT(source.done(record), IsEmpty());
  EXPECT_TRUE(settled(source.state));
  abort_ends(source);
  EXPECT_EQ(source.state.phase, SourcePhase::done);
  EXPECT_EQ(source.state.outcome, Outcome::cancelled);
}

TEST(PlanSourceCancel, IsPossibleInEveryPhaseBeforeTheCommitRecord) {
  using To = SourceDrive& (SourceDrive::*)();
  for (To to :
       {&SourceDrive::to_begun, &SourceDrive::to_prepare_sent, &SourceDrive::to_precopy, &SourceDrive::to_arming,
        &SourceDrive::to_freezing, &SourceDrive::to_dumping, &SourceDrive::to_restoring}) {
    SourceDrive source;
    (source.*to)();
    std::string phase = to_string(source.state.phase);
    bool resumes = source.state.phase >= SourcePhase::arming;
    ASSERT_TRUE(before_commit(source.state)) << phase;
    source.play(CancelRequested{});
    EXPECT_EQ(source.state.phase, SourcePhase::aborting) << phase;
    EXPECT_TRUE(before_commit(source.state)) << phase;
    EXPECT_EQ(verdict(source.state), Verdict::abort) << phase;
    EXPECT_EQ(source.state.resume_wanted, resumes) << phase;
    source.done(connect);
    source.done(freeze);
    abort_ends(source);
    EXPECT_EQ(source.state.phase, SourcePhase::done) << phase;
    EXPECT_EQ(source.state.outcome, Outcome::cancelled) << phase;
  }
}

TEST(PlanSourceAbort, ResumesAndTellsTheDestinationBesideTheRecord) {
  SourceDrive source;
  source.to_restoring();
  EXPECT_THAT(source.hears(Message::failed, "restore: no such file"), ElementsAre("record aborted", "resume_source", "send abort"));
  EXPECT_THAT(source.reasons, ElementsAre("", HasSubstr("no such file"), HasSubstr("no such file")));
  EXPECT_THAT(source.done(record), IsEmpty());
  EXPECT_FALSE(settled(source.state));
  EXPECT_THAT(source.done(resume_source), IsEmpty());
  EXPECT_TRUE(settled(source.state));
  EXPECT_THAT(source.done(send), IsEmpty());
  EXPECT_THAT(source.hears(Message::aborted), ElementsAre("record finished"));
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::failed);
  EXPECT_THAT(source.state.reason, HasSubstr("no such file"));
}

// The workload stands still, and no commit can be on a disk that has not been asked for one: the next agent leads back as well.
TEST(PlanSourceAbort, ADiskThatHangsKeepsNobodyStopped) {
  using To = SourceDrive& (SourceDrive::*)();
  for (To to : {&SourceDrive::to_arming, &SourceDrive::to_quiescing, &SourceDrive::to_dumping, &SourceDrive::to_restoring}) {
    SourceDrive source;
    (source.*to)();
    source.waits_out();
    EXPECT_THAT(source.actions, ElementsAre("record aborted", "resume_source", "send abort"));
    source.done(resume_source);
    source.done(send);
    EXPECT_THAT(source.hears(Message::aborted), IsEmpty());
    EXPECT_FALSE(settled(source.state)) << "the operator hears of it when it is on the disk";
    EXPECT_EQ(verdict(source.state), Verdict::abort);
  }
  SourceDrive restarted = SourceDrive::recovering({Record::begun});
  EXPECT_THAT(restarted.actions, ElementsAre("record aborted", "resume_source", "connect"));
}

TEST(PlanSourceAbort, ADumpUnderWayDoesNotDelayTheResume) {
  SourceDrive source;
  EXPECT_THAT(source.to_dumping().play(CancelRequested{}), Contains("resume_source"));
  source.done(record);
  source.done(resume_source);
  source.done(send);
  EXPECT_THAT(source.hears(Message::aborted), IsEmpty()) << "the end waits for the dump and the scan";
  source.done(dump, "ended by resume_source");
  EXPECT_THAT(source.done(final_scan, "ended"), ElementsAre("record finished"));
}

TEST(PlanSourceAbort, AFreezeUnderWayIsAwaitedBeforeTheResume) {
  SourceDrive source;
  EXPECT_THAT(source.to_freezing().play(CancelRequested{}), ElementsAre("record aborted", "send abort"));
  EXPECT_THAT(source.done(record), IsEmpty());
  EXPECT_THAT(source.done(freeze), ElementsAre("resume_source"));
}

TEST(PlanSourceAbort, AnArmedDumpIsEndedByTheResume) {
  SourceDrive source;
  EXPECT_THAT(source.to_arming().play(CancelRequested{}), Contains("resume_source"));
}

TEST(PlanSourceAbort, ADumpThatEndsAfterTheAbortSendsNoImages) {
  SourceDrive source;
  source.to_dumping().play(CancelRequested{});
  EXPECT_THAT(source.done(dump), IsEmpty());
  EXPECT_THAT(source.done(record), Not(Contains("send images")));
}

TEST(PlanSourceAbort, AFailureOfEachActionBeforeTheCommitLeadsBack) {
  using To = SourceDrive& (SourceDrive::*)();
  struct Row {
    To to;
    SourceActionKind kind;
  };
  for (Row row : {Row{&SourceDrive::to_precopy, precopy_round}, Row{&SourceDrive::to_arming, arm_dump},
                  Row{&SourceDrive::to_quiescing, quiesce}, Row{&SourceDrive::to_freezing, freeze}, Row{&SourceDrive::to_dumping, dump},
                  Row{&SourceDrive::to_dumping, final_scan}}) {
    SourceDrive source;
    (source.*row.to)();
    EXPECT_EQ(source.done(row.kind, "boom").front(), "record aborted") << to_string(row.kind);
    EXPECT_EQ(source.actions[1] == "resume_source", row.kind != precopy_round) << to_string(row.kind);
    EXPECT_EQ(source.actions.back(), "send abort") << to_string(row.kind);
    EXPECT_EQ(source.state.outcome, Outcome::failed);
    EXPECT_EQ(source.state.reason, std::string(to_string(row.kind)) + ": boom");
  }
  SourceDrive source;
  source.to_dumping().done(dump);
  EXPECT_THAT(source.done(finish_dump, "boom"), ElementsAre("record aborted", "resume_source")) << "the images are under way on that connection";
}

TEST(PlanSourceAbort, WhileAStandbyIsMadeTheSourceIsResumed) {
  for (bool cancelled : {true, false}) {
    SourceDrive source(MigrationOptions{.standby = true});
    source.to_precopy().round_sent(1);
    if (cancelled) {
      EXPECT_THAT(source.play(CancelRequested{}), ElementsAre("record aborted", "resume_source", "send abort"));
    } else {
      EXPECT_THAT(source.done(make_standby, "the tree stays stopped"), ElementsAre("record aborted", "resume_source", "send abort"));
    }
    EXPECT_THAT(source.done(record), IsEmpty());
    EXPECT_THAT(source.done(make_standby, "ended by resume_source"), IsEmpty());
  }
}

TEST(PlanSourceAbort, ALostConnectionBeforeTheCommitLeadsBackAndIsMadeAgainForTheAbort) {
  SourceDrive source;
  source.to_restoring();
  EXPECT_THAT(source.loses_connection(), ElementsAre("record aborted", "resume_source", "connect"));
  EXPECT_THAT(source.done(record), IsEmpty());
  source.done(resume_source);
  EXPECT_THAT(source.done(connect), ElementsAre("send abort"));
}

TEST(PlanSourceAbort, ALostConnectionInEveryPhaseFromPrepareOnLeadsBack) {
  using To = SourceDrive& (SourceDrive::*)();
  for (To to : {&SourceDrive::to_prepare_sent, &SourceDrive::to_precopy, &SourceDrive::to_arming,
                &SourceDrive::to_freezing, &SourceDrive::to_dumping, &SourceDrive::to_restoring}) {
    SourceDrive source;
    (source.*to)();
    EXPECT_EQ(source.loses_connection().front(), "record aborted");
    EXPECT_EQ(source.state.outcome, Outcome::failed);
  }
}

TEST(PlanSourceAbort, EveryWaitBeforeTheCommitHasAnEnd) {
  using To = SourceDrive& (SourceDrive::*)();
  for (To to : {&SourceDrive::to_begun, &SourceDrive::to_prepare_sent, &SourceDrive::to_arming,
                &SourceDrive::to_freezing, &SourceDrive::to_dumping, &SourceDrive::to_restoring}) {
    SourceDrive source;
    (source.*to)();
    std::string phase = to_string(source.state.phase);
    ASSERT_TRUE(source.state.deadline) << phase;
    source.now = *source.state.deadline - Nanoseconds(1);
    EXPECT_THAT(source.play(Tick{}), IsEmpty()) << phase << ": too early";
    source.waits_out();
    EXPECT_EQ(source.state.phase, SourcePhase::aborting) << phase;
  }
}

TEST(PlanSourceAbort, ARecordThatFailsDoesNotKeepTheSourceStopped) {
  SourceDrive source;
  EXPECT_THAT(source.to_restoring().loses_connection(), Contains("resume_source"));
  source.done(resume_source);
  source.done(record, "disk full");
  EXPECT_TRUE(settled(source.state));
}

TEST(PlanSourceAbort, AResumeThatFailsIsTriedAgainThenLeftToRecover) {
  SourceDrive source;
  source.to_restoring().hears(Message::failed, "x");
  source.done(record);
  source.done(send);
  source.hears(Message::aborted);
  for (unsigned i = 1; i < kResumeAttempts; ++i) {
    ASSERT_THAT(source.done(resume_source, "busy"), ElementsAre("wait_retry"));
    ASSERT_THAT(source.done(wait_retry), ElementsAre("resume_source"));
    ASSERT_FALSE(settled(source.state));
  }
  EXPECT_THAT(source.done(resume_source, "busy"), ElementsAre("close")) << "no `finished`: a restart tries again";
  EXPECT_EQ(source.state.outcome, Outcome::unknown);
  EXPECT_FALSE(nothing_left(source.state)) << "the journal must stay";
  EXPECT_THAT(source.state.reason, HasSubstr("mose recover"));
  EXPECT_EQ(verdict(source.state), Verdict::abort);
}

TEST(PlanSourceAbort, TheDestinationIsToldABoundedNumberOfTimes) {
  SourceDrive source;
  source.to_restoring().loses_connection();
  source.done(record);
  source.done(resume_source);
  for (unsigned i = 1; i < kAbortAttempts; ++i) {
    if (i > 1) {
      ASSERT_THAT(source.done(wait_retry), ElementsAre("connect"));
    }
    ASSERT_THAT(source.done(connect, "unreachable"), ElementsAre("wait_retry"));
  }
  source.done(wait_retry);
  EXPECT_THAT(source.done(connect, "unreachable"), ElementsAre("record finished"));
  source.done(record);
  EXPECT_EQ(source.state.phase, SourcePhase::done);
  EXPECT_EQ(source.state.outcome, Outcome::failed);
  EXPECT_THAT(source.state.reason, HasSubstr("could not be told"));
}

TEST(PlanSourceAbort, AnUnansweredAbortIsSentAgainOnANewConnection) {
  SourceDrive source;
  source.to_restoring().hears(Message::failed, "x");
  source.done(record);
  source.done(resume_source);
  source.done(send);
  EXPECT_EQ(source.state.deadline, source.now + kAbortedDeadline);
  EXPECT_THAT(source.waits_out(), ElementsAre("wait_retry"));
  EXPECT_THAT(source.done(wait_retry), ElementsAre("connect"));
  EXPECT_THAT(source.done(connect), ElementsAre("send abort"));
}

TEST(PlanSourceAbort, AReadyThatComesTooLateChangesNothing) {
  SourceDrive source;
  source.to_restoring();
  source.waits_out();
  EXPECT_THAT(source.actions, Contains("resume_source"));
  EXPECT_THAT(source.hears(Message::ready), IsEmpty());
}

// ---- A commit record that may or may not be durable

TEST(PlanSourceDoubt, OnlyADurableAbortOverrulesIt) {
  SourceDrive source;
  source.to_committing();
  EXPECT_THAT(source.done(record, "input/output error"), ElementsAre("record aborted"));
  EXPECT_EQ(verdict(source.state), Verdict::undecided);
  EXPECT_FALSE(before_commit(source.state));
  EXPECT_THAT(source.done(record), ElementsAre("resume_source", "send abort"));
  EXPECT_EQ(verdict(source.state), Verdict::abort);
}

// It may be there already: neither time nor the operator's cancel nor what the destination says lets the source run.
TEST(PlanSourceDoubt, ACommitOnADiskThatHangsIsWaitedFor) {
  SourceDrive source;
  source.to_committing();
  EXPECT_EQ(source.state.deadline, std::nullopt);
  EXPECT_THAT(source.play(CancelRequested{}), IsEmpty());
  EXPECT_THAT(source.hears(Message::failed, "killed there"), IsEmpty());
  EXPECT_THAT(source.loses_connection(), IsEmpty());
  EXPECT_EQ(verdict(source.state), Verdict::undecided);
  EXPECT_THAT(source.done(record, "input/output error"), ElementsAre("record aborted")) << "and neither is this one's end foreseen";
  EXPECT_EQ(source.state.deadline, std::nullopt);
}

TEST(PlanSourceDoubt, WithoutADurableAbortTheSourceStaysStoppedAndSaysSo) {
  SourceDrive source;
  source.to_committing().done(record, "input/output error");
  for (unsigned i = 1; i < kAbortRecordAttempts; ++i) {
    ASSERT_THAT(source.done(record, "input/output error"), ElementsAre("wait_retry"));
    ASSERT_THAT(source.done(wait_retry), ElementsAre("record aborted"));
  }
  EXPECT_THAT(source.done(record, "input/output error"), ElementsAre("close")) << "neither resumed nor told";
  EXPECT_EQ(source.state.outcome, Outcome::unknown);
  EXPECT_FALSE(nothing_left(source.state)) << "the journal must stay";
  EXPECT_THAT(source.state.reason, HasSubstr("mose recover"));
  EXPECT_EQ(verdict(source.state), Verdict::undecided);
}

TEST(PlanSourceDoubt, ACancelDuringTheCommitRecordIsHonouredWhenItFails) {
  SourceDrive source;
  source.to_committing().play(CancelRequested{});
  source.done(record, "input/output error");
  source.done(record);
  EXPECT_EQ(source.state.outcome, Outcome::cancelled);
}

// ---- A destination that went down with its machine before it knew of the commit

TEST(PlanSourceTakeBack, ADestinationThatNeverRanGivesTheCommitBack) {
  SourceDrive source;
  source.to_committed();
  EXPECT_THAT(source.hears(Message::aborted, "the machine was started again"), ElementsAre("record aborted"));
  EXPECT_EQ(verdict(source.state), Verdict::undecided) << "neither is on the disk for good";
  EXPECT_THAT(source.done(record), ElementsAre("resume_source"));
  EXPECT_THAT(source.done(resume_source), ElementsAre("record finished"));
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::failed);
  EXPECT_THAT(source.state.reason, HasSubstr("before it ran there: the machine was started again"));
}

TEST(PlanSourceTakeBack, AlsoAfterARestartOfTheSource) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit});
  source.done(connect);
  source.done(send);
  EXPECT_THAT(source.hears(Message::aborted), ElementsAre("record aborted"));
  EXPECT_THAT(source.done(record), ElementsAre("resume_source"));
}

TEST(PlanSourceTakeBack, OnlyADurableAbortOverrulesTheCommit) {
  SourceDrive source;
  source.to_committed().hears(Message::aborted);
  for (unsigned i = 1; i < kAbortRecordAttempts; ++i) {
    ASSERT_THAT(source.done(record, "input/output error"), ElementsAre("wait_retry"));
    ASSERT_THAT(source.done(wait_retry), ElementsAre("record aborted"));
  }
  EXPECT_THAT(source.done(record, "input/output error"), ElementsAre("close")) << "neither resumed nor told";
  EXPECT_EQ(source.state.outcome, Outcome::unknown);
}

TEST(PlanSourceTakeBack, NothingIsTakenBackFromADestinationThatHasRun) {
  SourceDrive source;
  source.to_serving();
  EXPECT_THAT(source.hears(Message::aborted), Not(Contains("record aborted")));
  EXPECT_EQ(source.state.phase, SourcePhase::serving);
}

// The note outlives the agent that has heard COMMITTED: clients have had answers that are not in the tree which is stopped here.
TEST(PlanSourceTakeBack, NorIsItAfterARestartOfTheSource) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit}, true);
  EXPECT_THAT(source.actions, ElementsAre("connect"));
  source.done(connect);
  source.done(send);
  EXPECT_THAT(source.hears(Message::aborted, "given up there"), IsEmpty());
  EXPECT_EQ(verdict(source.state), Verdict::commit);
  EXPECT_THAT(source.state.reason, HasSubstr("has thrown the workload away, which had run there: given up there"));
  EXPECT_FALSE(may_decide(source.state, {GoneChoice::resume, true}));
  EXPECT_THAT(source.play(DestinationGone{GoneChoice::end, true}), ElementsAre("record lost")) << "nothing but the operator's word ends it";
}

// ---- The operator's word that the destination will not come back

constexpr DestinationGone kResume{GoneChoice::resume}, kEnd{GoneChoice::end};

TEST(PlanSourceGone, ADurableAbortOverrulesTheCommitBeforeAnythingRuns) {
  SourceDrive source;
  source.to_committed().loses_connection();
  EXPECT_THAT(source.play(kResume), Contains("record aborted"));
  EXPECT_THAT(source.actions, Not(Contains("resume_source")));
  EXPECT_EQ(verdict(source.state), Verdict::undecided);
  EXPECT_THAT(source.done(record), Contains("resume_source"));
  EXPECT_EQ(verdict(source.state), Verdict::abort) << "who comes back throws his tree away";
  source.done(resume_source);
  EXPECT_TRUE(settled(source.state));
  EXPECT_EQ(source.state.outcome, Outcome::failed);
}

TEST(PlanSourceGone, AnAbortThatCannotBeRecordedLeavesTheTreeStopped) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit});
  source.done(connect, "no route to host");
  source.done(wait_retry);
  source.done(connect, "no route to host");
  source.play(kResume);
  for (unsigned i = 1; i < kAbortRecordAttempts; ++i) {
    ASSERT_THAT(source.done(record, "input/output error"), Not(Contains("resume_source")));
    source.done(wait_retry);
  }
  EXPECT_THAT(source.done(record, "input/output error"), Not(Contains("resume_source")));
  EXPECT_EQ(source.state.outcome, Outcome::unknown);
}

TEST(PlanSourceGone, ItsEndIsRecordedBeforeTheTreeIsKilled) {
  SourceDrive source;
  source.to_serving().done(redirect);
  source.loses_connection();
  EXPECT_THAT(source.play(kEnd), ElementsAre("record lost"));
  EXPECT_EQ(verdict(source.state), Verdict::undecided);
  EXPECT_THAT(source.done(record, "input/output error"), Not(Contains("kill_source")));
  EXPECT_THAT(source.done(wait_retry), ElementsAre("record lost"));
  EXPECT_THAT(source.done(record), ElementsAre("kill_source"));
  EXPECT_EQ(verdict(source.state), Verdict::abort);
  EXPECT_THAT(source.done(kill_source), ElementsAre("record finished"));
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::lost);
}

TEST(PlanSourceGone, ARestartGoesOnWithWhatWasDecided) {
  EXPECT_THAT(SourceDrive::recovering({Record::begun, Record::commit, Record::aborted}).actions, Contains("resume_source"));
  SourceDrive ended = SourceDrive::recovering({Record::begun, Record::commit, Record::lost});
  EXPECT_THAT(ended.actions, ElementsAre("kill_source"));
  EXPECT_EQ(verdict(ended.state), Verdict::abort);
  EXPECT_EQ(ended.state.outcome, Outcome::lost);
}

TEST(PlanSourceGone, IsNotTakenWhereTheDestinationIsThereOrHasRun) {
  SourceDrive connected;
  connected.to_committed();
  EXPECT_THAT(connected.play(kResume), ElementsAre());
  EXPECT_THAT(connected.play(kEnd), ElementsAre());
  EXPECT_EQ(connected.state.phase, SourcePhase::committed);
  SourceDrive served;
  served.to_serving().loses_connection();
  EXPECT_THAT(served.play(kResume), ElementsAre()) << "clients have had its answers";
  SourceDrive restarted = SourceDrive::recovering({Record::begun, Record::commit}, true);
  restarted.done(connect, "no route");
  EXPECT_THAT(restarted.play(kResume), ElementsAre()) << "an agent before this one has heard so";
  EXPECT_THAT(restarted.play(kEnd), ElementsAre("record lost"));
  SourceDrive before;
  before.to_committing().loses_connection();
  EXPECT_THAT(before.play(kEnd), ElementsAre());
  EXPECT_EQ(before.state.phase, SourcePhase::committing);
}

// Its history has rolled over, for one: it would answer the same for ever.
TEST(PlanSourceGone, IsTakenWhereTheDestinationIsThereAndKnowsNothing) {
  SourceDrive source;
  source.to_committed().hears(Message::failed, "no such migration here");
  EXPECT_THAT(source.play(DestinationGone{GoneChoice::resume, true}), ElementsAre("record aborted"));
  EXPECT_THAT(source.done(record), ElementsAre("resume_source", "connect"));
}

TEST(PlanSourceGone, ADestinationThatRunsAfterAllIsNamed) {
  SourceDrive source;
  source.to_committed().loses_connection();
  source.play(kResume);
  source.done(record);
  source.done(resume_source);
  source.done(wait_retry);
  source.done(connect);
  source.done(send);
  source.hears(Message::failed, "ABORT after COMMIT: the workload runs here");
  EXPECT_THAT(source.state.reason, HasSubstr("MAY RUN TWICE"));
}

TEST(PlanSourceGone, AlsoAfterARestartOfTheSource) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit, Record::aborted});
  source.done(resume_source);
  EXPECT_THAT(source.done(connect), ElementsAre("send abort"));
  source.done(send);
  EXPECT_THAT(source.hears(Message::failed, "ABORT after COMMIT: the workload runs here"), ElementsAre("record finished")) << "it is not asked again";
  EXPECT_THAT(source.state.reason, HasSubstr("MAY RUN TWICE"));
}

TEST(PlanSourceGone, WhatNeverHadACommitCannotRunTwice) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::aborted});
  source.done(resume_source);
  source.done(connect);
  source.done(send);
  source.hears(Message::failed, "the journal of that migration cannot be used here");
  EXPECT_THAT(source.state.reason, Not(HasSubstr("MAY RUN TWICE")));
}

// ---- Recovery

TEST(PlanSourceRecovery, AnUndecidedMigrationIsAbortedAndAlwaysResumed) {
  SourceDrive source = SourceDrive::recovering({Record::begun});
  EXPECT_THAT(source.actions, ElementsAre("record aborted", "resume_source", "connect"));
  EXPECT_EQ(verdict(source.state), Verdict::abort);
  EXPECT_THAT(source.done(record), IsEmpty());
  source.done(resume_source);
  EXPECT_THAT(source.done(connect), ElementsAre("send abort"));
  source.done(send);
  EXPECT_THAT(source.hears(Message::aborted), ElementsAre("record finished"));
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_EQ(source.state.outcome, Outcome::failed);
}

TEST(PlanSourceRecovery, AnAbortedMigrationIsResumedAgainWithoutASecondRecord) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::aborted});
  EXPECT_THAT(source.actions, ElementsAre("resume_source", "connect"));
}

TEST(PlanSourceRecovery, ACommittedMigrationGoesOn) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit});
  EXPECT_THAT(source.actions, ElementsAre("connect"));
  EXPECT_EQ(source.state.phase, SourcePhase::committed);
  EXPECT_EQ(verdict(source.state), Verdict::commit);
  EXPECT_THAT(source.done(connect), ElementsAre("send commit"));
  source.done(send);
  EXPECT_THAT(source.hears(Message::committed), ElementsAre("redirect"));
  source.done(redirect);
  EXPECT_THAT(source.hears(Message::complete), ElementsAre("record complete"));
}

TEST(PlanSourceRecovery, WhatIsCompleteNeedsNoDestinationAnyMore) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit, Record::complete});
  EXPECT_THAT(source.actions, ElementsAre("redirect"));
  EXPECT_THAT(source.done(redirect), ElementsAre("kill_source"));
  EXPECT_THAT(source.done(kill_source), ElementsAre("record finished"));
  EXPECT_THAT(source.done(record), ElementsAre("close"));
  EXPECT_TRUE(nothing_left(source.state));
}

TEST(PlanSourceRecovery, AnAbortAfterADoubtfulCommitWins) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit, Record::aborted});
  EXPECT_THAT(source.actions, ElementsAre("resume_source", "connect"));
  EXPECT_EQ(verdict(source.state), Verdict::abort);
}

TEST(PlanSourceRecovery, AFinishedMigrationNeedsNothingAndStillKnowsItsVerdict) {
  SourceDrive moved = SourceDrive::recovering({Record::begun, Record::commit, Record::finished});
  EXPECT_THAT(moved.actions, IsEmpty());
  EXPECT_TRUE(nothing_left(moved.state));
  EXPECT_EQ(moved.state.phase, SourcePhase::done);
  EXPECT_EQ(moved.state.outcome, Outcome::complete);
  EXPECT_EQ(verdict(moved.state), Verdict::commit);
  SourceDrive stayed = SourceDrive::recovering({Record::begun, Record::aborted, Record::finished});
  EXPECT_THAT(stayed.actions, IsEmpty());
  EXPECT_EQ(stayed.state.outcome, Outcome::failed);
  EXPECT_EQ(verdict(stayed.state), Verdict::abort);
}

TEST(PlanSourceRecovery, ACancelDuringRecoveryChangesNothing) {
  SourceDrive source = SourceDrive::recovering({Record::begun, Record::commit});
  EXPECT_THAT(source.play(CancelRequested{}), IsEmpty());
  EXPECT_EQ(source.state.phase, SourcePhase::committed);
}

}  // namespace
}  // namespace mose::plan::test
