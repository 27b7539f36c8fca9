// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fcntl.h>
#include <signal.h>

#include <filesystem>

#include "bed.h"
#include "lab/child_process.h"
#include "lab/node.h"
#include "lab/topology.h"

namespace mose::lab {
namespace {

using ::testing::IsEmpty;

constexpr const char* kLab = "t-lab-up";

class UpDown : public ::testing::Test {
 protected:
  UpDown() : turn_(test::take_turn(kLab)), names_(kLab) {
    auto clean = down(names_);
    EXPECT_TRUE(clean) << clean.error().what;
  }
  ~UpDown() override {
    auto clean = down(names_);
    EXPECT_TRUE(clean) << clean.error().what;
    auto lock = LabLock::acquire(names_, 1);  // the lock's file goes with its last holder
  }
  LabState must_up() {
    auto state = up(test::bare_lab(kLab));
    EXPECT_TRUE(state) << state.error().what;
    return state ? *state : LabState();
  }
  // Output of a shell command in a node.
  static std::string in_node(const LabState& state, const std::string& node, const std::string& command) {
    auto place = open_node(state, node);
    if (!place) return place.error().what;
    ProgramSpec spec;
    spec.argv = {"bash", "-c", command};
    spec.place = &place->place;
    spec.cgroup = place->cgroup;
    auto result = run_program(spec, "", std::chrono::seconds(20));
    return result ? result->out + result->err : result.error().what;
  }

  Fd turn_;
  Names names_;
};

TEST_F(UpDown, LeavesNothingBehind) {
  bool parent_before = ::access(kDiskParent, F_OK) == 0;
  {
    auto lock = LabLock::acquire(names_, 5);
    ASSERT_TRUE(lock);
    must_up();
    EXPECT_FALSE(test::traces(kLab).empty());
    ASSERT_TRUE(down(names_));
  }
  EXPECT_THAT(test::traces(kLab), IsEmpty());
  EXPECT_EQ(::access(kDiskParent, F_OK) == 0, parent_before);
}

TEST_F(UpDown, DownOfNothingIsDone) {
  EXPECT_TRUE(down(names_));
  EXPECT_TRUE(down(names_));
  auto found = status(names_);
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->exists);
}

TEST_F(UpDown, SecondUpChangesNothing) {
  LabState first = must_up(), second = must_up();
  EXPECT_EQ(to_json(first), to_json(second));
  auto found = status(names_);
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->complete);
  EXPECT_TRUE(found->nodes.at(0).keeper && found->nodes.at(1).keeper);
  EXPECT_THAT(list_labs(), ::testing::Contains(kLab));
}

TEST_F(UpDown, NodeHasAWorldOfItsOwn) {
  LabState state = must_up();
  EXPECT_EQ(in_node(state, "a", "cat /proc/sys/kernel/hostname"), "a\n");
  EXPECT_EQ(in_node(state, "b", "cat /proc/1/comm"), "mose-lab-keeper\n");
  EXPECT_EQ(in_node(state, "a", "grep -c . /proc/self/mountinfo >/dev/null && cat /proc/self/cgroup | grep ^0"),
            "0::/" + names_.node_cgroup("a") + "/system\n");
  // A file changed at a is not changed at b, and neither is seen outside.
  in_node(state, "a", "echo changed > /etc/hostname; echo x > /run/mark; echo x > /tmp/mark");
  EXPECT_EQ(in_node(state, "a", "cat /etc/hostname /run/mark /tmp/mark"), "changed\nx\nx\n");
  EXPECT_EQ(in_node(state, "b", "cat /etc/hostname; ls /run/mark /tmp/mark 2>/dev/null"), "b\n");
  EXPECT_NE(::access("/run/mark", F_OK), 0);
  // What stands on disk there is on a disk: fsync is real.
  EXPECT_EQ(in_node(state, "a", "stat -f -c %T /run /tmp /sys/fs/bpf /var/lib/mose | head -3"), "tmpfs\ntmpfs\nbpf_fs\n");
  EXPECT_EQ(in_node(state, "a", "ls /sys/fs/bpf | grep -v debug"), "") << "an instance of its own, without anyone's pins";
}

TEST_F(UpDown, NodesAndClientSeeEachOtherOnly) {
  LabState state = must_up();
  auto client = Place::of_netns(names_.netns_path("client"));
  ASSERT_TRUE(client);
  for (const char* node : kNodes) {
    auto place = open_node(state, node);
    ASSERT_TRUE(place);
    // Refused at once means: the node is reached, and nothing listens.
    ProgramSpec spec;
    spec.argv = {"bash", "-c", "exec 3<>/dev/tcp/" + node_address(node) + "/7"};
    spec.place = &*client;
    auto result = run_program(spec, "", std::chrono::seconds(10));
    ASSERT_TRUE(result) << result.error().what;
    EXPECT_NE(result->err.find("refused"), std::string::npos) << result->err;
    EXPECT_EQ(in_node(state, node, "cat /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null || echo 1"), "1\n");
    EXPECT_EQ(in_node(state, node, "cat /sys/class/net/br0/mtu /sys/class/net/up/mtu"), "1500\n1500\n");
  }
}

TEST_F(UpDown, ExitCodeAndLossOfACommandComeBack) {
  LabState state = must_up();
  auto place = open_node(state, "a");
  ASSERT_TRUE(place);
  ProgramSpec spec;
  spec.place = &place->place;
  spec.argv = {"bash", "-c", "exit 7"};
  EXPECT_EQ(run_program(spec, "", std::chrono::seconds(10))->exit_code, 7);
  spec.argv = {"bash", "-c", "kill -9 $$"};
  EXPECT_EQ(run_program(spec, "", std::chrono::seconds(10))->exit_code, 128 + 9);
  spec.argv = {"no-such-program"};
  auto missing = run_program(spec, "", std::chrono::seconds(10));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ENOENT);
  spec.argv = {"sleep", "100"};
  auto late = run_program(spec, "", std::chrono::milliseconds(200));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ETIMEDOUT);
}

// Else `mose` in a node would talk to an agent of the host.
TEST_F(UpDown, TheHostsAgentIsNoAgentOfTheLab) {
  LabState state = must_up();
  ::setenv("MOSE_SOCKET", "/nowhere/mosed.sock", 1);
  EXPECT_EQ(in_node(state, "a", "echo ${MOSE_SOCKET:-none}"), "none\n");
  ::unsetenv("MOSE_SOCKET");
}

TEST_F(UpDown, DaemonIsAChildOfTheKeeper) {
  LabState state = must_up();
  auto place = open_node(state, "a");
  ASSERT_TRUE(place);
  ProgramSpec spec;
  spec.place = &place->place;
  spec.cgroup = place->cgroup;
  spec.argv = {"sleep", "1000"};
  auto daemon = start_daemon(spec);
  ASSERT_TRUE(daemon) << daemon.error().what;
  auto parent = parent_pid(*daemon);
  for (int i = 0; i < 200 && parent && *parent != state.keepers["a"].pid; ++i) {
    ::usleep(10'000);
    parent = parent_pid(*daemon);
  }
  EXPECT_EQ(*parent, state.keepers["a"].pid);
  ASSERT_TRUE(down(names_));
  EXPECT_FALSE(daemon->alive());
}

// `flock FILE mose lab up` would hold its lock for as long as the lab stands.
TEST_F(UpDown, NothingInTheLabKeepsAFileOfItsStarter) {
  Fd inherited(::open(("/tmp/" + std::string(kLab) + ".lock").c_str(), O_RDWR | O_CREAT, 0600));  // without close-on-exec
  ASSERT_TRUE(inherited);
  std::string path = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(inherited.get()));
  ::unlink(path.c_str());
  LabState state = must_up();
  auto place = open_node(state, "a");
  ASSERT_TRUE(place);
  ProgramSpec spec;
  spec.place = &place->place;
  spec.argv = {"sleep", "1000"};
  auto daemon = start_daemon(spec);
  ASSERT_TRUE(daemon) << daemon.error().what;
  auto program = start_program(spec);
  ASSERT_TRUE(program) << program.error().what;
  auto holds = [&](pid_t pid) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
      std::error_code gone;
      if (std::filesystem::read_symlink(entry, gone).string().starts_with(path)) return true;
    }
    return false;
  };
  EXPECT_TRUE(holds(::getpid())) << "the look itself";
  for (const char* node : kNodes) EXPECT_FALSE(holds(state.keepers[node].pid)) << "keeper of " << node;
  EXPECT_FALSE(holds(daemon->pid()));
  EXPECT_FALSE(holds(program->pid())) << "the process that waits for it";
  ASSERT_TRUE(program->signal(SIGKILL));
  EXPECT_TRUE(program->reap(std::chrono::seconds(5)));
}

TEST_F(UpDown, ForeignThingsOfTheSameNameAreNotTouched) {
  ASSERT_TRUE(run_ip("", "netns add " + names_.netns("b") + "\n"));
  auto state = up(test::bare_lab(kLab));
  ASSERT_FALSE(state);
  EXPECT_NE(state.error().what.find(names_.netns("b")), std::string::npos) << state.error().what;
  ASSERT_TRUE(down(names_));
  EXPECT_TRUE(netns_exists(names_, "b"));
  ASSERT_TRUE(run_ip("", "netns del " + names_.netns("b") + "\n"));
  EXPECT_THAT(test::traces(kLab), IsEmpty());

  std::filesystem::create_directories(names_.disk());
  EXPECT_FALSE(up(test::bare_lab(kLab)));
  EXPECT_TRUE(std::filesystem::exists(names_.disk()));
  std::filesystem::remove(names_.disk());
  ::rmdir(kDiskRoot);
}

TEST_F(UpDown, OneCommandAtATime) {
  auto first = LabLock::acquire(names_, 0);
  ASSERT_TRUE(first);
  auto second = LabLock::acquire(names_, 0);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().what.find("in use"), std::string::npos);
}

TEST_F(UpDown, UnreadableStateIsNamedAndNothingIsTouched) {
  auto lock = LabLock::acquire(names_, 0);  // makes the directory
  ASSERT_TRUE(lock);
  {
    auto file = open_file(names_.state_file(), O_WRONLY | O_CREAT, 0600);
    ASSERT_TRUE(file);
    ASSERT_TRUE(write_all(file->get(), "{\"lab\": "));
  }
  auto state = up(test::bare_lab(kLab));
  ASSERT_FALSE(state);
  EXPECT_NE(state.error().what.find(names_.state_file()), std::string::npos);
  EXPECT_FALSE(down(names_));
  ::unlink(names_.state_file().c_str());
}

}  // namespace
}  // namespace mose::lab
