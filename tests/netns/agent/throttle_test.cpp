// SPDX-License-Identifier: MIT
// mose-throttle on a real control group with a child that counts: slowed down by about what was asked for, and thawed whoever
// ends, in whatever way.
#include "agent/throttle.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "kernel/probe.h"
#include "kernel/spawn.h"
#include "support/support.h"

namespace mose::agent {
namespace {

using namespace std::chrono_literals;

constexpr Nanoseconds kEndBound = 5s;

// A child in a group of its own that counts for as long as it may run.
class Counter {
 public:
  Counter() {
    auto mount = cgroup_mount();
    if (!mount) test::skip_process(mount.error().what);
    auto made = Cgroup::create(*mount + "/mose-throttle-test-" + std::to_string(getpid()));
    if (!made) test::skip_process(made.error().what);
    group = std::move(*made);
    void* page = mmap(nullptr, sizeof(*count_), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    count_ = static_cast<std::atomic<uint64_t>*>(page);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) count_->fetch_add(1, std::memory_order_relaxed);
    }
    EXPECT_TRUE(group.add(pid_));
  }
  ~Counter() {
    (void)group.kill();
    (void)group.thaw();
    waitpid(pid_, nullptr, 0);
    EXPECT_TRUE(group.remove(kEndBound));
    munmap(count_, sizeof(*count_));
  }
  Counter(const Counter&) = delete;
  Counter& operator=(const Counter&) = delete;

  [[nodiscard]] double in(Nanoseconds time) const {
    const uint64_t before = *count_;
    std::this_thread::sleep_for(time);
    return static_cast<double>(*count_ - before);
  }
  // It was not left frozen, and goes on.
  [[nodiscard]] testing::AssertionResult runs() const {
    auto asked = group.freeze_requested();
    if (!asked) return testing::AssertionFailure() << asked.error().what;
    if (*asked) return testing::AssertionFailure() << "the group was left frozen";
    for (int i = 0; i < 100; ++i) {
      if (in(10ms) > 0) return testing::AssertionSuccess();
    }
    return testing::AssertionFailure() << "it does not count";
  }

  Cgroup group;

 private:
  std::atomic<uint64_t>* count_ = nullptr;
  pid_t pid_ = 0;
};

TEST(Throttle, LeavesAboutTheShareThatWasAskedFor) {
  Counter counter;
  Throttle throttle(counter.group);
  // On a busy machine any one of these may be off.
  double free = 0, slowed = 0;
  for (int i = 0; i < 3; ++i) {
    free += counter.in(500ms);
    ASSERT_TRUE(throttle.set(80));
    slowed += counter.in(500ms);
    ASSERT_TRUE(throttle.lift());
    EXPECT_TRUE(counter.runs());
  }
  EXPECT_LT(slowed, free * 3 / 4) << "a fifth was asked for; beside others a free one has less than all, too";
  EXPECT_GT(slowed, free / 50) << "it is slowed down, not stopped";
  ASSERT_TRUE(throttle.stood_still());
  EXPECT_GT(*throttle.stood_still(), 600ms) << "1.2 s were asked for";
  EXPECT_LT(*throttle.stood_still(), 10s);
}

TEST(Throttle, ObeysANewOrderAndSaysHowLongTheGroupStoodStill) {
  Counter counter;
  Throttle throttle(counter.group);
  ASSERT_TRUE(throttle.set(20));
  ASSERT_TRUE(throttle.set(40));
  (void)counter.in(200ms);
  ASSERT_TRUE(throttle.lift());
  ASSERT_TRUE(throttle.stood_still());
  EXPECT_GT(*throttle.stood_still(), 20ms);
  const Nanoseconds before = *throttle.stood_still();
  ASSERT_TRUE(throttle.set(60)) << "after its end another is started";
  (void)counter.in(100ms);
  ASSERT_TRUE(throttle.lift());
  EXPECT_GT(*throttle.stood_still(), before);
  EXPECT_TRUE(throttle.lift()) << "nothing is left to lift";
}

TEST(Throttle, NobodyIsLeftWhoCouldUndoAFreezeThatFollows) {
  Counter counter;
  Throttle throttle(counter.group);
  for (int i = 0; i < 20; ++i) {
    auto process = throttle.set(80);
    ASSERT_TRUE(process);
    std::this_thread::sleep_for(std::chrono::milliseconds(1 + i));
    ASSERT_TRUE(throttle.lift());
    EXPECT_FALSE(process->alive());
    ASSERT_TRUE(counter.group.freeze(kEndBound));
    EXPECT_EQ(counter.in(25ms), 0) << "for longer than a period";
    ASSERT_TRUE(counter.group.thaw());
  }
}

TEST(Throttle, ASignalThaws) {
  for (int number : {SIGTERM, SIGINT, SIGHUP}) {
    Counter counter;
    Throttle throttle(counter.group);
    auto process = throttle.set(80);
    ASSERT_TRUE(process);
    std::this_thread::sleep_for(30ms);
    ASSERT_TRUE(process->signal(number));
    ASSERT_TRUE(process->wait_ended(kEndBound));
    EXPECT_TRUE(counter.runs()) << number;
    EXPECT_TRUE(throttle.lift());
    EXPECT_TRUE(throttle.stood_still()) << "it could still say it";
  }
}

// SIGKILL in a frozen slice: what only its owner can put right.
TEST(Throttle, OneThatIsKilledIsMadeUpFor) {
  Counter counter;
  Throttle throttle(counter.group);
  for (int i = 0; i < 10; ++i) {
    auto process = throttle.set(80);
    ASSERT_TRUE(process);
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + i));
    ASSERT_TRUE(throttle.lift_dead()) << "it lives";
    ASSERT_TRUE(process->alive());
    ASSERT_TRUE(process->signal(SIGKILL));
    ASSERT_TRUE(process->wait_ended(kEndBound));
    ASSERT_TRUE(throttle.lift_dead());
    ASSERT_TRUE(counter.runs());
  }
  EXPECT_FALSE(throttle.stood_still()) << "nobody knows";
}

TEST(Throttle, TheDeathOfItsOwnerThaws) {
  Counter counter;
  for (int i = 0; i < 10; ++i) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    Fd reader(ends[0]), writer(ends[1]);
    const pid_t owner = fork();
    ASSERT_GE(owner, 0);
    if (owner == 0) {
      Throttle throttle(counter.group);
      auto process = throttle.set(80);
      const pid_t pid = process ? process->pid() : 0;
      if (write(writer.get(), &pid, sizeof pid) != sizeof pid) _exit(1);
      for (;;) pause();
    }
    writer.reset();
    pid_t pid = 0;
    ASSERT_EQ(read(reader.get(), &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
    auto process = ProcessHandle::open(pid);
    ASSERT_TRUE(process);
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + 2 * i));
    ASSERT_EQ(kill(owner, SIGKILL), 0);
    waitpid(owner, nullptr, 0);
    ASSERT_TRUE(process->wait_ended(kEndBound));
    EXPECT_TRUE(counter.runs());
  }
}

TEST(Throttle, AHostWithoutTheFreezerIsRefusedWithTheReason) {
  force_probe("cgroup-freezer", ProbeState::no);
  auto can = can_throttle();
  unforce_probes();
  ASSERT_FALSE(can);
  EXPECT_NE(can.error().what.find("leave --auto-converge out"), std::string::npos) << can.error().what;
}

TEST(Throttle, ItsExitStatusSaysWhetherAllWasWritten) {
  auto helper = helper_path("mose-throttle");
  ASSERT_TRUE(helper) << helper.error().what;
  // Without orders, with one that is too much, and with a directory that is no control group.
  Counter counter;
  auto plain = open_file("/tmp", O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(plain);
  struct Row {
    std::string orders;
    int group, status;
  };
  for (const Row& row : {Row{"", counter.group.fd(), 0}, Row{"\x14", counter.group.fd(), 0},
                         Row{"\x63", counter.group.fd(), 1}, Row{"", plain->get(), 1}}) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    Fd reader(ends[0]), writer(ends[1]);
    auto process = spawn({.program = *helper,
                          .arguments = {},
                          .environment = {},
                          .fds = {{reader.get(), STDIN_FILENO}, {row.group, 3}},
                          .new_session = false});
    ASSERT_TRUE(process);
    ASSERT_TRUE(write_all(writer.get(), row.orders));
    writer.reset();
    auto exit = process->reap(kEndBound);
    ASSERT_TRUE(exit) << exit.error().what;
    EXPECT_FALSE(exit->signalled);
    EXPECT_EQ(exit->value, row.status);
    EXPECT_TRUE(counter.runs());
  }
}

}  // namespace
}  // namespace mose::agent
