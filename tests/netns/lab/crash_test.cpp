// SPDX-License-Identifier: MIT
// Whatever is killed, the next `up` makes a whole lab again and `down` leaves nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bed.h"
#include "lab/node.h"

namespace mose::lab {
namespace {

using ::testing::IsEmpty;

constexpr const char* kCrashLab = "t-lab-crash";

class Crash : public ::testing::Test {
 protected:
  Crash() : turn_(test::take_turn(kCrashLab)), names_(kCrashLab) {
    auto clean = down(names_);
    EXPECT_TRUE(clean) << clean.error().what;
  }
  ~Crash() override {
    auto clean = down(names_);
    EXPECT_TRUE(clean) << clean.error().what;
  }
  void expect_whole_again() {
    auto state = up(test::bare_lab(kCrashLab));
    ASSERT_TRUE(state) << state.error().what;
    auto found = status(names_);
    ASSERT_TRUE(found);
    EXPECT_TRUE(found->complete);
    for (const NodeStatus& node : found->nodes) EXPECT_TRUE(node.keeper) << node.node;
  }
  void expect_clean_down() {
    {
      auto lock = LabLock::acquire(names_, 10);
      ASSERT_TRUE(lock) << lock.error().what;
      auto clean = down(names_);
      ASSERT_TRUE(clean) << clean.error().what;
    }
    EXPECT_THAT(test::traces(kCrashLab), IsEmpty());
  }

  Fd turn_;
  Names names_;
};

TEST_F(Crash, KilledKeeperIsReplaced) {
  auto state = up(test::bare_lab(kCrashLab));
  ASSERT_TRUE(state) << state.error().what;
  auto keeper = open_record(state->keepers["b"]);
  ASSERT_TRUE(keeper);
  ASSERT_TRUE(keeper->signal(SIGKILL));
  ASSERT_TRUE(keeper->wait_ended(std::chrono::seconds(10)));
  auto found = status(names_);
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->nodes.at(0).keeper);
  EXPECT_FALSE(found->nodes.at(1).keeper);
  EXPECT_FALSE(open_node(*state, "b"));
  expect_whole_again();
  expect_clean_down();
}

TEST_F(Crash, CommandKilledAnywhereInUpIsCleanedByTheNext) {
  // `up` takes some hundred milliseconds: the delays go through all of it, and the last ones come after its end.
  int killed = 0;
  for (int delay_ms = 0; delay_ms <= 720; delay_ms += 80) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto lock = LabLock::acquire(names_, 10);
      auto state = up(test::bare_lab(kCrashLab));
      ::_exit(state ? 0 : 1);
    }
    ::usleep(static_cast<useconds_t>(delay_ms) * 1000);
    ::kill(child, SIGKILL);
    int result = 0;
    ASSERT_EQ(::waitpid(child, &result, 0), child);
    if (WIFSIGNALED(result)) ++killed;
    if (delay_ms % 160 == 0) {
      expect_whole_again();
    }
    expect_clean_down();
    if (HasFailure()) FAIL() << "killed after " << delay_ms << " ms";
  }
  EXPECT_GE(killed, 2) << "`up` has become so fast that the delays miss it";
}

TEST_F(Crash, LabOfAKilledRunIsMadeAnew) {
  auto state = up(test::bare_lab(kCrashLab));
  ASSERT_TRUE(state) << state.error().what;
  pid_t before = state->keepers["a"].pid;
  state->run = ProcessRecord{::getpid(), 1};  // a process that is no more
  ASSERT_TRUE(save_state(names_, *state));
  auto found = status(names_);
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->leftover);
  auto again = up(test::bare_lab(kCrashLab));
  ASSERT_TRUE(again) << again.error().what;
  EXPECT_NE(again->keepers["a"].pid, before);
  expect_clean_down();
}

TEST_F(Crash, RecordOfAProcessThatIsAnotherNowIsNotBelieved) {
  auto state = up(test::bare_lab(kCrashLab));
  ASSERT_TRUE(state) << state.error().what;
  LabState wrong = *state;
  wrong.keepers["a"] = {::getpid(), 1};
  EXPECT_FALSE(open_node(wrong, "a"));
  EXPECT_FALSE(is_alive(wrong.keepers["a"]));
}

}  // namespace
}  // namespace mose::lab
