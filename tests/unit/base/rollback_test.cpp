// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <string>

#include "base/rollback.h"

namespace mose {
namespace {

TEST(Rollback, UndoesTheLastStepFirst) {
  std::string order;
  {
    Rollback rollback;
    rollback.push([&] { order += 'a'; });
    rollback.push([&] { order += 'b'; });
    rollback.push([&] { order += 'c'; });
  }
  EXPECT_EQ(order, "cba");
}

TEST(Rollback, ACommitKeepsEverything) {
  std::string order;
  {
    Rollback rollback;
    rollback.push([&] { order += 'a'; });
    rollback.commit();
  }
  EXPECT_EQ(order, "");
}

TEST(Rollback, StepsAfterACommitAreUndoneAlone) {
  std::string order;
  {
    Rollback rollback;
    rollback.push([&] { order += 'a'; });
    rollback.commit();
    rollback.push([&] { order += 'b'; });
  }
  EXPECT_EQ(order, "b");
}

TEST(Rollback, RunUndoesOnce) {
  int undone = 0;
  {
    Rollback rollback;
    rollback.push([&] { ++undone; });
    rollback.run();
    rollback.run();
  }
  EXPECT_EQ(undone, 1);
}

TEST(Rollback, AnUndoThatPushesIsUndoneToo) {
  std::string order;
  Rollback rollback;
  rollback.push([&] { order += 'a'; });
  rollback.push([&] {
    order += 'b';
    rollback.push([&] { order += 'x'; });
  });
  rollback.run();
  EXPECT_EQ(order, "bxa");
}

TEST(Rollback, MovesWithItsSteps) {
  std::string order;
  {
    Rollback outer;
    outer.push([&] { order += 'o'; });
    {
      Rollback inner;
      inner.push([&] { order += 'i'; });
      outer = std::move(inner);  // what it held before is undone now
      EXPECT_EQ(order, "o");
    }
    Rollback third(std::move(outer));
    EXPECT_EQ(order, "o");
  }
  EXPECT_EQ(order, "oi");
}

}  // namespace
}  // namespace mose
