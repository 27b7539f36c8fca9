// SPDX-License-Identifier: MIT
#include "agent/recovery_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mose::agent {
namespace {

using testing::HasSubstr;
using Action = RecoveryAction;
using Says = PeerSays;
using Wish = RecoveryWish;

// A committed source that waits for its destination; its tree is stopped here.
RecoverySides waiting_source(Says says) {
  return {.node = "a", .peer = "b", .workload = "redis", .peer_says = says, .committed = true, .waiting = true, .tree_here = true, .tree_frozen = true, .phase = "committed"};
}
RecoverySides without_journal(Says says, Role role = Role::source) {
  return {.role = role, .node = "a", .peer = "b", .workload = "redis", .journal = OwnJournal::gone, .peer_says = says, .tree_here = true, .tree_frozen = true};
}
constexpr Says kAllSays[] = {Says::unreachable, Says::too_old, Says::nothing, Says::unreadable, Says::undecided, Says::committed, Says::complete, Says::lost, Says::aborted};

TEST(RecoveryChoice, WhatGoesOnByItselfIsLeftAloneAndSaysWhatElseThereIs) {
  for (Says says : kAllSays) EXPECT_EQ(choose_recovery(waiting_source(says), Wish::none).action, Action::none);
  EXPECT_THAT(choose_recovery(waiting_source(Says::unreachable), Wish::none).what, HasSubstr("--resume-here"));
  EXPECT_THAT(choose_recovery(waiting_source(Says::nothing), Wish::none).what, HasSubstr("not even in its history"));
}

TEST(RecoveryChoice, ADestinationIsDecidedAboutOnlyWhereItIsGoneOrKnowsNothing) {
  for (Says says : kAllSays) {
    const bool gone = says == Says::unreachable || says == Says::nothing;
    EXPECT_EQ(choose_recovery(waiting_source(says), Wish::resume).action, gone ? Action::resume : Action::refuse) << to_string(says);
    EXPECT_EQ(choose_recovery(waiting_source(says), Wish::give_up).action, gone ? Action::end : Action::refuse) << to_string(says);
  }
  EXPECT_FALSE(choose_recovery(waiting_source(Says::unreachable), Wish::resume).certain);
  RecoverySides alive = waiting_source(Says::unreachable);
  alive.pager_connected = true;
  EXPECT_THAT(choose_recovery(alive, Wish::resume).warning, HasSubstr("CONNECTION OF ITS PAGER STANDS HERE"));
  RecoverySides connected = waiting_source(Says::nothing);
  connected.connected = true;
  EXPECT_EQ(choose_recovery(connected, Wish::resume).action, Action::resume);
  connected.peer_says = Says::unreachable;
  EXPECT_EQ(choose_recovery(connected, Wish::resume).action, Action::refuse);
}

TEST(RecoveryChoice, WhatHasRunThereOrHasEndedHereDoesNotRunHereAgain) {
  RecoverySides ran = waiting_source(Says::unreachable), dead = ran, early = ran;
  ran.has_run_there = true;
  dead.tree_here = false;
  early.before_commit = true;
  EXPECT_THAT(choose_recovery(ran, Wish::resume).what, HasSubstr("clients have had its answers"));
  EXPECT_EQ(choose_recovery(ran, Wish::give_up).action, Action::end);
  EXPECT_EQ(choose_recovery(dead, Wish::resume).action, Action::refuse);
  EXPECT_THAT(choose_recovery(early, Wish::resume).what, HasSubstr("mose cancel"));
}

// Neither side has what clients have seen last, and both would wait for ever.
TEST(RecoveryChoice, WhatWasThrownAwayThereAfterItHadRunIsOnlyEnded) {
  RecoverySides ran = waiting_source(Says::aborted);
  ran.has_run_there = ran.connected = true;
  EXPECT_THAT(choose_recovery(ran, Wish::none).what, testing::AllOf(HasSubstr("does not run again"), HasSubstr("--give-up"), testing::Not(HasSubstr("--resume-here"))));
  EXPECT_EQ(choose_recovery(ran, Wish::resume).action, Action::refuse);
  EXPECT_EQ(choose_recovery(ran, Wish::give_up).action, Action::end);
}

TEST(RecoveryChoice, WithoutItsJournalASourceRunsOnlyWhereTheDestinationNeverHasOrByWord) {
  for (Says says : kAllSays) {
    RecoveryChoice choice = choose_recovery(without_journal(says), Wish::none);
    const bool may = says == Says::undecided || says == Says::aborted;
    EXPECT_EQ(choice.action == Action::resume, may) << to_string(says);
    EXPECT_EQ(choice.abort_there_first, says == Says::undecided) << to_string(says);
    EXPECT_THAT(choice.what, testing::Not(HasSubstr("freeze"))) << "no hand work";
  }
  for (Says says : {Says::committed, Says::complete, Says::lost})
    EXPECT_EQ(choose_recovery(without_journal(says), Wish::resume).action, Action::refuse) << to_string(says);
  RecoveryChoice unknown = choose_recovery(without_journal(Says::unreachable), Wish::none);
  EXPECT_EQ(unknown.action, Action::refuse);
  EXPECT_THAT(unknown.what, testing::AllOf(HasSubstr("(1) whether redis runs on node b"), HasSubstr("(2) whether redis stands here"), HasSubstr("--resume-here"), HasSubstr("--give-up")));
  EXPECT_EQ(choose_recovery(without_journal(Says::unreachable), Wish::resume).action, Action::resume);
  EXPECT_EQ(choose_recovery(without_journal(Says::complete), Wish::none).action, Action::end);
}

TEST(RecoveryChoice, WithoutItsJournalADestinationThrowsAwayOnlyWhatTheSourceHasDecidedAgainst) {
  for (Says says : kAllSays) {
    const bool against = says == Says::aborted || says == Says::lost;
    EXPECT_EQ(choose_recovery(without_journal(says, Role::destination), Wish::none).action, against ? Action::discard : Action::refuse) << to_string(says);
    EXPECT_EQ(choose_recovery(without_journal(says, Role::destination), Wish::give_up).action, Action::discard);
    const Action resumed = choose_recovery(without_journal(says, Role::destination), Wish::resume).action;
    EXPECT_EQ(resumed, against ? Action::discard : Action::refuse);
  }
}

TEST(RecoveryChoice, JournalsThatContradictEachOtherDecideNothing) {
  RecoverySides source = without_journal(Says::committed);
  source.journal = OwnJournal::readable;
  EXPECT_EQ(choose_recovery(source, Wish::none).action, Action::refuse);
  source.peer_says = Says::lost;
  EXPECT_EQ(choose_recovery(source, Wish::none).action, Action::refuse) << "it has run there, and has ended";
  source.committed = true;
  EXPECT_EQ(choose_recovery(source, Wish::none).action, Action::go_on);
  RecoverySides destination = without_journal(Says::aborted, Role::destination);
  destination.journal = OwnJournal::readable;
  EXPECT_EQ(choose_recovery(destination, Wish::none).action, Action::go_on);
  destination.committed = true;
  EXPECT_EQ(choose_recovery(destination, Wish::none).action, Action::refuse);
}

TEST(RecoveryChoice, AJournalThatCannotBeReadThereIsNotSaidToGoOnByItself) {
  const RecoverySides source = waiting_source(Says::unreadable);
  EXPECT_THAT(choose_recovery(source, Wish::none).what, testing::AllOf(HasSubstr("waits at its source"), HasSubstr("`mose recover"), testing::Not(HasSubstr("by itself"))));
  for (Wish wish : {Wish::resume, Wish::give_up}) {
    EXPECT_THAT(choose_recovery(source, wish).what, testing::AllOf(HasSubstr("cannot be read"), HasSubstr("`mose recover"), testing::Not(HasSubstr("by itself"))));
  }
  const RecoverySides destination{.role = Role::destination, .node = "b", .peer = "a", .workload = "redis", .peer_says = Says::unreadable, .waiting = true, .phase = "asked"};
  EXPECT_THAT(choose_recovery(destination, Wish::none).what, HasSubstr("cannot be read"));
}

TEST(RecoveryChoice, WhatWaitsForItsVerdictIsGivenUpForCertainOnlyWhereTheSourceStillHasIt) {
  for (Says says : kAllSays) {
    const RecoverySides sides{.role = Role::destination, .node = "b", .peer = "a", .workload = "redis", .peer_says = says, .waiting = true};
    const RecoveryChoice choice = choose_recovery(sides, Wish::give_up);
    const bool certain = says == Says::undecided || says == Says::aborted;
    EXPECT_EQ(choice.action, Action::discard) << to_string(says);
    EXPECT_EQ(choice.certain, certain) << to_string(says);
    EXPECT_EQ(choice.warning.empty(), certain) << to_string(says);
  }
}

TEST(RecoveryChoice, AJournalThatIsBackIsGoneOnFromAloneWhereTheOtherSideAgrees) {
  for (Role role : {Role::source, Role::destination}) {
    for (Says says : kAllSays) {
      RecoverySides sides = without_journal(says, role);
      EXPECT_FALSE(goes_on_alone(sides)) << "it is gone";
      sides.journal = OwnJournal::readable;
      sides.committed = true;
      const bool told = says != Says::unreachable && says != Says::too_old && says != Says::nothing && says != Says::unreadable;
      const bool contrary = role == Role::destination && says == Says::aborted;
      EXPECT_EQ(goes_on_alone(sides), told && !contrary) << to_string(says);
    }
  }
}

TEST(RecoveryChoice, WhereNoProcessIsItIsForgotten) {
  for (Role role : {Role::source, Role::destination}) {
    RecoverySides sides = without_journal(Says::unreachable, role);
    sides.tree_here = false;
    EXPECT_EQ(choose_recovery(sides, Wish::none).action, Action::forget);
  }
}

}  // namespace
}  // namespace mose::agent
