// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>

#include "sim/mutation.h"

namespace mose::sim {
namespace {

using plan::DestinationAction;
using plan::DestinationActionKind;
using plan::DestinationEvent;
using plan::DestinationPhase;
using plan::DestinationState;
using plan::DestinationStep;
using plan::Message;
using plan::Record;
using plan::SourceAction;
using plan::SourceActionKind;
using plan::SourceEvent;
using plan::SourcePhase;
using plan::SourceState;
using plan::SourceStep;

template <typename Step>
bool emits(const Step& step, auto kind) {
  return std::any_of(step.actions.begin(), step.actions.end(), [&](const auto& a) { return a.kind == kind; });
}

template <typename Step>
bool emits_message(const Step& step, auto send, Message message) {
  return std::any_of(step.actions.begin(), step.actions.end(),
                     [&](const auto& a) { return a.kind == send && a.message == message; });
}

TEST(PlanMutation, ACommitThatIsNotWrittenIsFound) {
  Hooks bug;
  bug.forget_record = [](Side side, Record r) { return side == Side::source && r == Record::commit; };
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

// Not a bug that breaks anything: a destination that finds no `ready` throws away what it has fenced and gives the commit back, and one
// that finds a commit alone, and no tree, has lost it.
TEST(PlanMutation, AReadyThatIsNotWrittenDoesNoHarm) {
  Hooks bug;
  bug.forget_record = [](Side side, Record r) { return side == Side::destination && r == Record::ready; };
  unsigned taken_back = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const Verdicts run = simulate(seed, bug);
    EXPECT_EQ(run.violation, "") << "seed " << seed;
    taken_back += run.taken_back ? 1 : 0;
  }
  EXPECT_GT(taken_back, 0u) << "it was never missed";
}

TEST(PlanMutation, ABeginningThatIsNotWrittenAtTheSourceIsFound) {
  Hooks bug;
  bug.forget_record = [](Side side, Record r) { return side == Side::source && r == Record::begun; };
  EXPECT_TRUE(found(bug, "not committed, and the source does not serve"));
}

TEST(PlanMutation, ABeginningThatIsNotWrittenAtTheDestinationIsFound) {
  Hooks bug;
  bug.forget_record = [](Side side, Record r) { return side == Side::destination && r == Record::begun; };
  EXPECT_TRUE(found(bug, "something is left at the destination"));
}

TEST(PlanMutation, ACommitBeforeCriuHasLetGoIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    if (emits(step, SourceActionKind::finish_dump)) step.state.dump_finished = true;
  };
  EXPECT_TRUE(found(bug, "committed while CRIU still has the source tree"));
}

TEST(PlanMutation, ACommitBeforeThePageMapIsOutIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    if (emits(step, SourceActionKind::final_scan)) step.state.map_sent = true;
  };
  // Most strategies stop it before that: their pages are counted, or waited for.
  EXPECT_TRUE(found(bug, "no rest in bounded time"));
}

TEST(PlanMutation, ACommitBeyondTheBoundIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) { step.state.pages_left = 0; };
  EXPECT_TRUE(found(bug, "committed while more pages than may be were at the source alone"));
}

TEST(PlanMutation, ACommitWithoutReadyIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    if (step.state.phase == SourcePhase::dumping) step.state.ready_seen = true;
  };
  EXPECT_TRUE(found(bug, "no rest in bounded time"));
}

TEST(PlanMutation, ASourceResumedWhenTheConnectionIsLostAfterTheCommitIsFound) {
  Hooks bug;
  bug.source = [](const SourceState& before, const SourceEvent& event, SourceStep& step) {
    bool after_commit = before.phase == SourcePhase::committed || before.phase == SourcePhase::serving;
    if (after_commit && std::holds_alternative<plan::ConnectionLost>(event)) {
      step.actions.push_back({.kind = SourceActionKind::resume_source});
    }
  };
  EXPECT_TRUE(found(bug, "two running trees"));
}

TEST(PlanMutation, ASourceResumedByItsOperatorBeforeTheAbortIsOnTheDiskIsFound) {
  Hooks bug;
  bug.destination_dies = true;
  bug.early_record = [](Side side, Record r) { return side == Side::source && r == Record::aborted; };
  EXPECT_TRUE(found(bug, "the source runs after its durable commit"));
}

TEST(PlanMutation, ARestartedSourceThatForgetsThatTheDestinationHasRunIsFound) {
  Hooks bug;
  bug.destination_dies = true;
  bug.forget_note = true;
  EXPECT_TRUE(found(bug, "the source runs, and has written down that the destination has run"));
}

TEST(PlanMutation, ACommitThatIsTakenBackFromADestinationThatHadSaidThatItRunsIsFound) {
  Hooks bug;
  bug.destination_forgets = true;
  bug.forget_note = true;
  EXPECT_TRUE(found(bug, "the source runs after the destination has run"));
}

TEST(PlanMutation, ADestinationThatKnowsNothingAndSaysThatItNeverRanIsFound) {
  Hooks bug;
  bug.destination_forgets = true;
  bug.forgotten_is_aborted = true;
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

TEST(PlanMutation, ASourceThatNobodyResumesIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    std::erase_if(step.actions, [](const SourceAction& a) { return a.kind == SourceActionKind::resume_source; });
    std::erase(step.state.running, SourceActionKind::resume_source);
    step.state.resume_wanted = false;
  };
  EXPECT_TRUE(found(bug, "not committed, and the source does not serve"));
}

TEST(PlanMutation, ASlowdownThatAnAbortDoesNotEndIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    SourceState& state = step.state;
    if (state.phase != SourcePhase::aborting || state.stopped || state.armed) return;
    std::erase_if(step.actions, [](const SourceAction& action) { return action.kind == SourceActionKind::resume_source; });
    std::erase(state.running, SourceActionKind::resume_source);
    state.resume_wanted = false;
  };
  EXPECT_TRUE(found(bug, "while the source does not run at full speed"));
}

TEST(PlanMutation, ADoubtfulCommitThatIsTakenForAnAbortIsFound) {
  Hooks bug;
  bug.source = [](const SourceState& before, const SourceEvent&, SourceStep& step) {
    if (before.phase != SourcePhase::committing || step.state.phase != SourcePhase::aborting) return;
    step.state.commit_doubtful = false;
  };
  EXPECT_TRUE(found(bug, "the source runs after its durable commit"));
}

TEST(PlanMutation, ASourceKilledBeforeItsPagesAreCompleteIsFound) {
  Hooks bug;
  bug.source = [](const SourceState& before, const SourceEvent&, SourceStep& step) {
    if (before.phase == SourcePhase::committed && step.state.phase == SourcePhase::serving) {
      step.state.complete_seen = true;
    }
  };
  EXPECT_TRUE(found(bug, "the source was killed before its pages were complete"));
}

TEST(PlanMutation, AnAbortThatTheDestinationNeverHearsOfIsFound) {
  Hooks bug;
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    step.state.peer_settled = step.state.phase == SourcePhase::aborting;
    if (step.state.phase == SourcePhase::aborting) step.state.verdict = plan::Verdict::undecided;
  };
  EXPECT_TRUE(found(bug, "no rest in bounded time"));
}

TEST(PlanMutation, ACommitThatIsSentOnlyOnceIsFound) {
  Hooks bug;
  bug.source = [](const SourceState& before, const SourceEvent&, SourceStep& step) {
    if (before.connect_failures == 0 || !emits_message(step, SourceActionKind::send, Message::commit)) return;
    std::erase_if(step.actions, [](const SourceAction& a) { return a.message == Message::commit; });
    std::erase(step.state.running, SourceActionKind::send);
  };
  EXPECT_TRUE(found(bug, "no rest in bounded time"));
}

TEST(PlanMutation, AThawBeforeTheCommitIsFound) {
  Hooks bug;
  bug.destination = [](const DestinationState&, const DestinationEvent&, DestinationStep& step) {
    if (!emits_message(step, DestinationActionKind::send, Message::ready)) return;
    step.actions.push_back({.kind = DestinationActionKind::activate});
  };
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

TEST(PlanMutation, ATreeThatHasRunAndIsSaidNeverToHaveIsFound) {
  Hooks bug;
  bug.destination = [](const DestinationState& before, const DestinationEvent&, DestinationStep& step) {
    if (before.phase != DestinationPhase::activating) return;
    for (DestinationAction& action : step.actions) {
      if (action.message == Message::committed) action.message = Message::aborted;
    }
  };
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

TEST(PlanMutation, ACommitThatIsTakenBackBeforeThatIsDurableIsFound) {
  Hooks bug;
  bug.source = [](const SourceState& before, const SourceEvent&, SourceStep& step) {
    if (before.phase != SourcePhase::committed || step.state.phase != SourcePhase::aborting) return;
    step.state.abort_recorded = true;
    step.state.running.clear();
    step.actions = {{.kind = SourceActionKind::resume_source}};
    step.state.running = {SourceActionKind::resume_source};
  };
  EXPECT_TRUE(found(bug, "the source runs after its durable commit"));
}

TEST(PlanMutation, AFencedTreeThatAsksNobodyIsFound) {
  // Only together with a source that gives up: ABORT is tried on a bounded number of connections.
  Hooks bug;
  bug.destination = [](const DestinationState&, const DestinationEvent&, DestinationStep& step) {
    std::erase_if(step.actions,
                  [](const DestinationAction& a) { return a.kind == DestinationActionKind::query_verdict; });
    std::erase(step.state.running, DestinationActionKind::query_verdict);
  };
  bug.source = [](const SourceState&, const SourceEvent&, SourceStep& step) {
    if (step.state.connect_failures > 0 && step.state.phase == SourcePhase::aborting) step.state.peer_settled = true;
  };
  EXPECT_TRUE(found(bug, "deadlock: the destination rests in phase fenced"));
}

TEST(PlanMutation, APagerClosedBeforeItHasEveryPageIsFound) {
  Hooks bug;
  bug.destination = [](const DestinationState& before, const DestinationEvent&, DestinationStep& step) {
    // Told one event too early that everything is in.
    if (before.phase == DestinationPhase::activating && step.state.phase == DestinationPhase::running) {
      step.state.pages_complete = true;
    }
  };
  EXPECT_TRUE(found(bug, "the pager is closed before it has every page"));
}

TEST(PlanMutation, AnEndThatIsNotKeptForASourceThatComesLaterIsFound) {
  Hooks bug;
  bug.forget_history = true;
  EXPECT_TRUE(found(bug, "no rest in bounded time"));
}

TEST(PlanMutation, ARegistryThatIsTakenForWrittenIsFound) {
  Hooks bug;
  bug.registry_taken_for_written = true;
  EXPECT_TRUE(found(bug, "a registry says for ever that the workload is on its way"));
}

TEST(PlanMutation, AnEmptyGroupThatIsThawedIsFound) {
  Hooks bug;
  bug.blind_to_the_tree = true;
  EXPECT_TRUE(found(bug, "committed, and lost"));
}

TEST(PlanMutation, ATreeThatNeverRanAndIsCalledLostIsFound) {
  Hooks bug;
  bug.destination = [](const DestinationState&, const DestinationEvent&, DestinationStep& step) {
    if (step.state.phase == DestinationPhase::activating) step.state.may_have_run = true;
  };
  EXPECT_TRUE(found(bug, "committed, and lost"));
}

TEST(PlanMutation, APagerThatRaisesNoFenceIsFound) {
  Hooks bug;
  bug.pager_without_fence = true;
  EXPECT_TRUE(found(bug, "the destination runs and the source has no durable commit"));
}

}  // namespace
}  // namespace mose::sim
