// SPDX-License-Identifier: MIT
#include "agent/recovery.h"

#include <gtest/gtest.h>

namespace mose::agent {
namespace {

using plan::Record;

TEST(Recovery, WhatStillHasToBeDecidedOrServedAtTheSourceGoesOn) {
  EXPECT_FALSE(ended_source({Record::begun}, true, true, {}));
  EXPECT_FALSE(ended_source({Record::begun, Record::commit}, true, true, {}));
  EXPECT_FALSE(ended_source({Record::begun, Record::commit}, true, false, {})) << "its destination waits for the commit";
  EXPECT_FALSE(ended_source({Record::begun, Record::commit, Record::complete}, true, true, {})) << "the tree has to be killed";
}

TEST(Recovery, ASourceWhoseTreeIsGoneWhenEverythingHadArrivedHasMoved) {
  for (auto records : {std::vector{Record::begun, Record::commit, Record::complete}, {Record::begun, Record::commit, Record::finished}}) {
    auto ended = ended_source(records, true, false, {});
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->outcome, Outcome::complete);
    EXPECT_TRUE(ended->left);
  }
}

TEST(Recovery, ASourceThatRunsAgainHasFailedAndSaysSoToWhoAsks) {
  for (auto records : {std::vector{Record::begun, Record::aborted}, {Record::begun, Record::commit, Record::aborted, Record::finished}}) {
    auto ended = ended_source(records, false, true, {});
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->outcome, Outcome::failed);
    EXPECT_FALSE(ended->left);
  }
}

TEST(Recovery, ASourceThatWasGivenUpIsLostOnceItsTreeIsGone) {
  EXPECT_FALSE(ended_source({Record::begun, Record::commit, Record::lost}, true, true, {})) << "the tree has to be killed";
  for (auto records : {std::vector{Record::begun, Record::commit, Record::lost}, {Record::begun, Record::commit, Record::lost, Record::finished}}) {
    auto ended = ended_source(records, true, false, {});
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->outcome, Outcome::lost);
    EXPECT_TRUE(ended->left);
  }
}

// Full when it ended, and what was not synced is gone with the machine.
TEST(Recovery, ACommitOfAWorkloadThatIsNotHereAnyMoreEndedAsItWasTold) {
  EXPECT_FALSE(ended_source({Record::begun, Record::commit}, false, false, {})) << "nobody knows what became of it";
  EXPECT_FALSE(ended_source({Record::begun, Record::commit}, true, false, Outcome::unknown));
  auto ended = ended_source({Record::begun, Record::commit}, false, false, Outcome::complete);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->outcome, Outcome::complete);
}

// A source that has not heard of the end has nothing but the history to be answered from.
TEST(Recovery, ADestinationKnowsHowAMigrationEndedWhoseReportWasNotWritten) {
  EXPECT_FALSE(ended_destination({Record::begun, Record::ready, Record::commit, Record::complete}));
  EXPECT_EQ(ended_destination({Record::begun, Record::ready, Record::commit, Record::complete, Record::finished})->outcome, Outcome::complete);
  EXPECT_EQ(ended_destination({Record::begun, Record::ready, Record::commit, Record::lost, Record::finished})->outcome, Outcome::lost);
  EXPECT_EQ(ended_destination({Record::begun, Record::aborted, Record::finished})->outcome, Outcome::failed);
}

}  // namespace
}  // namespace mose::agent
