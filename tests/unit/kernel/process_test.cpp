// SPDX-License-Identifier: MIT
#include "kernel/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "kernel/spawn.h"

namespace mose {
namespace {

constexpr Nanoseconds kBound{10'000'000'000};

Result<ProcessHandle> shell(const std::string& script, std::vector<SpawnRequest::FdMap> fds = {}) {
  SpawnRequest request;
  request.program = "/bin/sh";
  request.arguments = {"-c", script};
  request.fds = std::move(fds);
  return spawn(request);
}

TEST(ProcessHandle, NamesAProcessByPidfdAndStartTime) {
  auto self = ProcessHandle::open(::getpid());
  ASSERT_TRUE(self) << self.error().what;
  EXPECT_EQ(self->pid(), ::getpid());
  EXPECT_GT(self->start_time(), 0u);
  EXPECT_TRUE(self->alive());
  EXPECT_TRUE(ProcessHandle::open_same(::getpid(), self->start_time()));
  auto other = ProcessHandle::open_same(::getpid(), self->start_time() + 1);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ESRCH);
}

TEST(ProcessHandle, AProcessThatIsNotThereIsAnError) {
  auto none = ProcessHandle::open(0x3fffffff);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ESRCH);
  EXPECT_FALSE(ProcessHandle::open(-1));
  ProcessHandle empty;
  EXPECT_FALSE(empty.alive());
  EXPECT_FALSE(empty.signal(SIGTERM));
}

TEST(ProcessHandle, TellsHowAChildEnded) {
  auto child = shell("exit 3");
  ASSERT_TRUE(child) << child.error().what;
  auto exit = child->reap(kBound);
  ASSERT_TRUE(exit) << exit.error().what;
  EXPECT_FALSE(exit->success());
  EXPECT_EQ(describe(*exit), "exit status 3");
  EXPECT_FALSE(child->alive());
  EXPECT_EQ(child->signal(SIGTERM).error().code, ESRCH);
  EXPECT_EQ(child->reap(kBound).error().code, ECHILD);
}

TEST(ProcessHandle, WaitsAreBounded) {
  auto child = shell("exec sleep 1000");
  ASSERT_TRUE(child);
  EXPECT_EQ(child->wait_ended(Nanoseconds{1'000'000}).error().code, ETIMEDOUT);
  EXPECT_EQ(child->reap(Nanoseconds{0}).error().code, ETIMEDOUT);
  auto shared = child->share();
  ASSERT_TRUE(shared);
  ASSERT_TRUE(shared->signal(SIGKILL));
  EXPECT_TRUE(child->wait_ended(kBound));
  EXPECT_FALSE(child->alive()) << "a zombie has ended";
  EXPECT_EQ(describe(*child->reap(kBound)), "signal 9");
}

TEST(ProcessTree, HasParentsBeforeChildren) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  Fd reader(ends[0]), writer(ends[1]);
  auto child = shell("sh -c 'sleep 1000 & echo up; wait' & wait", {{writer.get(), 1}});
  ASSERT_TRUE(child);
  writer.reset();
  char text[3];
  ASSERT_EQ(::read(reader.get(), text, sizeof text), 3);
  auto tree = process_tree(*child);
  ASSERT_TRUE(tree) << tree.error().what;
  ASSERT_EQ(tree->size(), 3u);
  EXPECT_EQ((*tree)[0].pid(), child->pid());
  EXPECT_EQ(*parent_pid((*tree)[1]), child->pid());
  EXPECT_EQ(*parent_pid((*tree)[2]), (*tree)[1].pid());
  EXPECT_EQ(*virtual_pid((*tree)[0]), child->pid());
  // Parents first: one whose last child has gone ends by itself.
  for (const ProcessHandle& process : *tree) EXPECT_TRUE(process.signal(SIGKILL));
  EXPECT_TRUE(child->reap(kBound));
}

TEST(Namespaces, AreComparedByFile) {
  auto self = ProcessHandle::open(::getpid());
  ASSERT_TRUE(self);
  for (NamespaceKind kind : {NamespaceKind::net, NamespaceKind::ipc, NamespaceKind::uts, NamespaceKind::time, NamespaceKind::mnt}) {
    auto a = open_namespace(*self, kind);
    auto b = own_namespace(kind);
    ASSERT_TRUE(a && b) << to_string(kind);
    EXPECT_TRUE(*same_namespace(a->get(), b->get())) << to_string(kind);
  }
  EXPECT_FALSE(new_namespace(NamespaceKind::mnt));
}

TEST(Spawn, GivesTheProgramJustWhatItIsGiven) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  Fd reader(ends[0]), writer(ends[1]);
  // Descriptors without close-on-exec, below and above the one that is named.
  ASSERT_EQ(::dup2(ends[0], 60), 60);
  ASSERT_EQ(::dup2(ends[0], 90), 90);
  SpawnRequest request;
  request.program = "/bin/sh";
  // Standard input is empty and the last value of a variable counts.
  request.arguments = {"-c", "read x; for f in 60 80 90; do [ -e /proc/$$/fd/$f ] && y=$y$f; done; echo \"$V:$x:$y\" >/proc/$$/fd/80"};
  request.environment = {"V=old", "V=new"};
  request.fds = {{writer.get(), 80}};
  auto child = spawn(request);
  ::close(60);
  ::close(90);
  ASSERT_TRUE(child) << child.error().what;
  writer.reset();
  EXPECT_EQ(*read_all(reader.get()), "new::80\n");
  EXPECT_TRUE(child->reap(kBound)->success());
}

TEST(Spawn, MapsDescriptorsThatCross) {
  int first[2], second[2];
  ASSERT_EQ(::pipe2(first, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(second, O_CLOEXEC), 0);
  Fd r1(first[0]), w1(first[1]), r2(second[0]), w2(second[1]);
  // Not ">&N": some shells take one digit only, and which numbers are free here depends on who started this.
  auto child = shell("echo one >/proc/$$/fd/" + std::to_string(w2.get()) + "; echo two >/proc/$$/fd/" + std::to_string(w1.get()),
                     {{w1.get(), w2.get()}, {w2.get(), w1.get()}});
  ASSERT_TRUE(child) << child.error().what;
  w1.reset();
  w2.reset();
  EXPECT_EQ(*read_all(r1.get()), "one\n");
  EXPECT_EQ(*read_all(r2.get()), "two\n");
  EXPECT_TRUE(child->reap(kBound)->success());
}

TEST(Spawn, AMissingProgramIsAnError) {
  SpawnRequest request;
  request.program = "/no/such/program";
  auto child = spawn(request);
  ASSERT_FALSE(child);
  EXPECT_EQ(child.error().code, ENOENT);
}

TEST(EndedChildren, AreListedUntilTheyAreReaped) {
  pid_t child = fork();
  if (child == 0) _exit(0);
  auto listed = [&] {
    auto all = ended_children();
    return std::find_if(all.begin(), all.end(), [&](const EndedChild& ended) { return ended.pid == child; }) != all.end();
  };
  while (!listed()) usleep(1000);
  EndedChild ended;
  for (const EndedChild& each : ended_children()) {
    if (each.pid == child) ended = each;
  }
  EXPECT_FALSE(reap_child({child, ended.start_time + 1})) << "another process of that number";
  EXPECT_TRUE(reap_child(ended));
  EXPECT_FALSE(listed());
}

}  // namespace
}  // namespace mose
