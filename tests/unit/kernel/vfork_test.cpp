// SPDX-License-Identifier: MIT
#include "kernel/vfork.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>
#include <utility>

namespace mose {
namespace {

constexpr size_t kStack = 64 << 10;

int wait_for_ever(void*) {
  for (;;) ::pause();
}

// Children of this test that do nothing: with a memory of their own, or in ours, as between vfork() and exec.
class Vfork : public ::testing::Test {
 protected:
  ~Vfork() override {
    for (auto& [pid, stack] : children_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
      ::munmap(stack, kStack);
    }
  }
  pid_t child(int flags) {
    void* stack = ::mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const pid_t pid = stack == MAP_FAILED ? -1 : ::clone(wait_for_ever, static_cast<char*>(stack) + kStack, flags | SIGCHLD, nullptr);
    if (pid <= 0) throw std::runtime_error("no child could be made");
    children_.emplace_back(pid, stack);
    tree_.push_back(pid);
    return pid;
  }
  pid_t vforked() {
    auto found = first_vforked(tree_);
    EXPECT_TRUE(found) << found.error().what;
    return found.value_or(-1);
  }
  std::vector<pid_t> tree_;

 private:
  std::vector<std::pair<pid_t, void*>> children_;
};

TEST_F(Vfork, ForkedProcessesHaveTheirOwnMemory) {
  tree_.push_back(::getpid());
  for (int i = 0; i < 10; ++i) child(0);
  EXPECT_EQ(vforked(), 0);
}

TEST_F(Vfork, OneInTheMemoryOfAnotherIsFoundAmongMany) {
  for (int i = 0; i < 5; ++i) child(0);
  tree_.push_back(::getpid());
  for (int i = 0; i < 5; ++i) child(0);
  const pid_t borrower = child(CLONE_VM);
  for (int i = 0; i < 5; ++i) child(0);
  EXPECT_EQ(vforked(), borrower);
}

// All zombies have the same memory: none.
TEST_F(Vfork, WhoHasEndedRunsInNobodysMemory) {
  tree_.push_back(::getpid());
  for (int i = 0; i < 3; ++i) {
    const pid_t pid = child(0);
    ::kill(pid, SIGKILL);
    siginfo_t info{};
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  }
  EXPECT_EQ(vforked(), 0);
}

}  // namespace
}  // namespace mose
