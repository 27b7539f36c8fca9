// SPDX-License-Identifier: MIT
#include "kernel/tracers.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mose {
namespace {

// A child that does nothing, or has ended and waits for us.
class Child {
 public:
  explicit Child(bool ends) {
    pid_ = ::fork();
    if (pid_ == 0) {
      if (!ends) ::pause();
      ::_exit(0);
    }
    auto handle = ProcessHandle::open(pid_);
    EXPECT_TRUE(handle);
    if (handle) handles_.push_back(std::move(*handle));
    siginfo_t info{};
    if (ends) {
      EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT), 0);
    }
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const std::vector<ProcessHandle>& handles() const { return handles_; }

 private:
  pid_t pid_ = -1;
  std::vector<ProcessHandle> handles_;
};

TEST(Tracers, OneThatNobodyTracesStaysFree) {
  Child child(false);
  for (int i = 0; i < 2; ++i) {
    auto traced = first_traced(child.handles());
    ASSERT_TRUE(traced) << traced.error().what;
    EXPECT_EQ(*traced, 0);
  }
  auto tracers = tracers_of(child.handles());
  ASSERT_TRUE(tracers) << tracers.error().what;
  EXPECT_TRUE(tracers->empty()) << "nor does it keep who has looked";
}

TEST(Tracers, ADebuggerIsSeen) {
  Child child(false);
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr), 0);
  auto traced = first_traced(child.handles());
  ASSERT_TRUE(traced) << traced.error().what;
  EXPECT_EQ(*traced, child.pid());
  auto tracers = tracers_of(child.handles());
  ASSERT_TRUE(tracers) << tracers.error().what;
  EXPECT_EQ(*tracers, std::set<pid_t>{::getpid()});
}

// The kernel refuses to trace it, as if somebody did.
TEST(Tracers, AZombieIsTracedByNobody) {
  Child child(true);
  auto traced = first_traced(child.handles());
  ASSERT_TRUE(traced) << traced.error().what;
  EXPECT_EQ(*traced, 0);
}

}  // namespace
}  // namespace mose
