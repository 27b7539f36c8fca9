// SPDX-License-Identifier: MIT
// What counts as a running tree: the judge of every fault case is judged first.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "kernel/cgroup.h"
#include "support/support.h"
#include "tree_watch.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kBound = std::chrono::seconds(5);
constexpr size_t kProcesses = 24;
constexpr int kRounds = 60;

// Processes that sleep in their C library, in a cgroup of their own.
class Sleepers : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) skip_process("cgroups need root");
    auto mount = cgroup_mount();
    if (!mount) skip_process(mount.error().what);
    auto group = Cgroup::create(*mount + "/mose-test-tree-watch-" + std::to_string(::getpid()));
    ASSERT_TRUE(group) << group.error().what;
    group_ = std::move(*group);
  }
  void TearDown() override {
    if (!group_.valid()) return;
    end();
    EXPECT_TRUE(group_.remove(kBound));
  }

  void start(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      pid_t pid = ::fork();
      ASSERT_GE(pid, 0);
      if (pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) ::pause();
      }
      pids_.push_back(pid);
      ASSERT_TRUE(group_.add(pid));
    }
  }
  void end() {
    (void)group_.kill();
    for (pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    pids_.clear();
    (void)group_.thaw();
  }
  // A task on a processor is not seen, only one that waits: it gets there.
  [[nodiscard]] bool seen_in_time() const {
    for (Timestamp deadline = now() + kBound; now() < deadline; ::usleep(1000)) {
      if (evidence()) return true;
    }
    return false;
  }
  [[nodiscard]] std::optional<std::string> evidence() const { return running_evidence(group_.path(), "tree_watch"); }

  Cgroup group_;
  std::vector<pid_t> pids_;
};

TEST_F(Sleepers, AreSeenWhileTheyMayRun) {
  start(2);
  EXPECT_TRUE(seen_in_time());
  ASSERT_TRUE(group_.freeze(kBound));
  EXPECT_FALSE(evidence());
  ASSERT_TRUE(group_.thaw());
  EXPECT_TRUE(seen_in_time());
}

// The first to die takes the "frozen" from its group, while the others have not left the freezer.
TEST_F(Sleepers, ThatAreKilledWhileFrozenNeverRan) {
  for (int round = 0; round < kRounds; ++round) {
    start(kProcesses);
    ASSERT_TRUE(group_.freeze(kBound));
    std::atomic<bool> stop{false};
    std::string seen;
    std::thread watcher([&] {
      while (!stop && seen.empty()) seen = evidence().value_or("");
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // One after another, so that the moment between the deaths is there to be seen.
    for (pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
    stop = true;
    watcher.join();
    pids_.clear();
    ASSERT_EQ(seen, "") << "in round " << round;
    ASSERT_TRUE(group_.thaw());
  }
}

}  // namespace
}  // namespace mose::test
