// SPDX-License-Identifier: MIT
// The two helpers that outlive or outrun the agent run with nothing: no capability, and a list of system calls.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "confine.h"
#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "kernel/spawn.h"
#include "support/support.h"

namespace mose::test {
namespace {

struct Running {
  ProcessHandle process;
  Fd input;  // of the throttle: ends it
  explicit Running(ProcessHandle p) : process(std::move(p)) {}
  Running(Running&&) = default;
  ~Running() {
    if (!process.valid()) return;
    (void)process.signal(SIGKILL);
    (void)process.reap(std::chrono::seconds(5));
  }
};

template <typename Condition>
bool eventually(Condition holds) {
  for (int i = 0; i < 500; ++i, ::usleep(10'000))
    if (holds()) return true;
  return false;
}

std::string field(const Running& helper, const char* name) { return status_field(helper.process, name).value_or("gone"); }

void expect_confined(const Running& helper) {
  EXPECT_TRUE(eventually([&] { return field(helper, "Seccomp") == "2"; })) << field(helper, "Seccomp");
  for (const char* set : {"CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"}) EXPECT_EQ(field(helper, set), "0000000000000000") << set;
  EXPECT_EQ(field(helper, "NoNewPrivs"), "1");
}

TEST(HelpersConfinement, TheHolderHasNothingButItsTapAndWaits) {
  Fd tap(::memfd_create("tap", MFD_CLOEXEC));
  SpawnRequest request;
  request.program = *helper_path("mose-holder");
  request.fds = {{tap.get(), 3}};
  auto spawned = spawn(request);
  ASSERT_TRUE(spawned) << spawned.error().what;
  Running holder(std::move(*spawned));
  expect_confined(holder);
  // The next agent takes the descriptor all the same.
  Fd taken(static_cast<int>(::syscall(SYS_pidfd_getfd, holder.process.fd(), 3, 0)));
  EXPECT_TRUE(taken.valid());
  EXPECT_TRUE(holder.process.alive());
  EXPECT_EQ(field(holder, "State").front(), 'S');
}

TEST(HelpersConfinement, TheThrottleHasNothingButItsGroup) {
  auto mount = cgroup_mount();
  if (!mount) skip_process(mount.error().what);
  auto group = Cgroup::create(*mount + "/mose-helpers-test-" + std::to_string(::getpid()));
  if (!group) skip_process(group.error().what);
  auto orders = make_pipe(), answer = make_pipe();
  ASSERT_TRUE(orders && answer);
  SpawnRequest request;
  request.program = *helper_path("mose-throttle");
  request.fds = {{orders->read.get(), 0}, {answer->write.get(), 1}, {group->fd(), 3}};
  auto spawned = spawn(request);
  ASSERT_TRUE(spawned) << spawned.error().what;
  {
    Running throttle(std::move(*spawned));
    expect_confined(throttle);
    const char half = 50;
    ASSERT_EQ(::write(orders->write.get(), &half, 1), 1);
    EXPECT_TRUE(eventually([&] { return group->freeze_requested().value_or(false); }));
    orders->write.reset();
    auto end = throttle.process.reap(std::chrono::seconds(5));
    ASSERT_TRUE(end) << end.error().what;
    EXPECT_TRUE(end->success()) << describe(*end);
    answer->write.reset();
    EXPECT_GT(std::atol(read_all(answer->read.get(), 64).value_or("").c_str()), 0);
  }
  EXPECT_FALSE(group->freeze_requested().value_or(true));
  EXPECT_TRUE(group->remove(std::chrono::seconds(5)));
}

// What the list does not name does nothing and says EPERM; what it names works.
TEST(HelpersConfinement, OtherCallsAreRefused) {
  const pid_t child = ::fork();
  if (child == 0) {
    static const int calls[] = {SYS_getppid, SYS_exit_group};
    if (confine(calls, 2) != 0) ::_exit(1);
    if (::syscall(SYS_getppid) <= 0) ::_exit(2);
    char* const no_arguments[] = {nullptr};
    if (::execve("/bin/true", no_arguments, no_arguments) != -1 || errno != EPERM) ::_exit(3);
    if (::socket(AF_INET, SOCK_STREAM, 0) != -1 || errno != EPERM) ::_exit(4);
    if (::open("/etc/passwd", O_RDONLY | O_CLOEXEC) != -1 || errno != EPERM) ::_exit(5);
    if (::syscall(SYS_getppid + 0x40000000) != -1 || errno != EPERM) ::_exit(6);  // the other convention's numbers
    if (::ptrace(PTRACE_TRACEME) != -1 || errno != EPERM) ::_exit(7);
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace mose::test
