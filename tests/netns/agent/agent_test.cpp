// SPDX-License-Identifier: MIT
// The real agent and command line in a node of their own: workloads from their start to their end, refusals, restarts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "agent/check.h"
#include "agent/file_sync.h"
#include "agent/journal.h"
#include "bed.h"
#include "kernel/process.h"
#include "support/unreadable_directory.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kAddress = "192.0.2.10";
constexpr const char* kNothingUnderWay = "{\"closed\":[],\"migrations\":[],\"plain_text\":true}\n";

class AgentTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { bed = new AgentBed("agent"); }
  static void TearDownTestSuite() {
    delete bed;
    bed = nullptr;
  }
  void SetUp() override { bed->start_agent(); }
  void TearDown() override {
    if (bed->agent_pid() == 0) bed->start_agent();
    for (const json& workload : workloads()) {
      if (workload["origin"] == "run") (void)bed->mose({"stop", workload["name"], "--grace", "200ms"});
    }
    bed->terminate_agent();
    EXPECT_THAT(leftovers(), testing::IsEmpty());
  }

  static Output run_redis(const std::string& name = "redis", const std::string& address = "192.0.2.10/24") {
    return bed->mose({"run", name, "--address", address, "--root", bed->root(), "--", "redis-server", "--save", "",
                      "--protected-mode", "no"});
  }
  static Output run_shell(const std::string& name, const std::string& script,
                          const std::string& address = "192.0.2.20/24") {
    return bed->mose({"run", name, "--address", address, "--root", bed->root(), "--", "/bin/sh", "-c", script});
  }
  static json workloads() {
    auto listed = bed->mose({"workloads", "--json"});
    EXPECT_EQ(listed.exit_code, 0) << listed.error;
    auto value = json::parse(listed.out, nullptr, false);
    return value.is_object() ? value["workloads"] : json::array();
  }
  static json workload(const std::string& name) {
    for (const json& item : workloads()) {
      if (item["name"] == name) return item;
    }
    return {};
  }
  static bool wait_state(const std::string& name, const std::string& state) {
    for (int i = 0; i < 200; ++i) {
      json item = workload(name);
      if (item.is_object() && item["state"] == state) return true;
      std::this_thread::sleep_for(25ms);
    }
    return false;
  }
  // Waits until the workload's own output has the word: it has come so far.
  static bool wait_output(const std::string& name, const std::string& word) {
    for (int i = 0; i < 400; ++i, std::this_thread::sleep_for(25ms)) {
      std::ifstream file(bed->directory() + "/state/workloads/" + name + "/log/stdout.log");
      if (std::string(std::istreambuf_iterator<char>(file), {}).find(word) != std::string::npos) return true;
    }
    return false;
  }
  // What a stopped node must not have any more.
  static std::vector<std::string> leftovers() {
    std::vector<std::string> left;
    if (fs::exists(bed->cgroup())) {
      for (const auto& item : fs::directory_iterator(bed->cgroup())) {
        if (item.is_directory()) left.push_back(item.path());
      }
    }
    if (fs::exists("/sys/fs/bpf/mose")) {
      for (const auto& item : fs::directory_iterator("/sys/fs/bpf/mose")) left.push_back(item.path());
    }
    auto* names = if_nameindex();
    for (auto* item = names; item->if_index != 0; ++item) {
      if (std::string(item->if_name).starts_with("mv")) left.emplace_back(item->if_name);
    }
    if_freenameindex(names);
    for (const auto& item : fs::directory_iterator(bed->directory() + "/state/workloads")) {
      if (item.path().extension() == ".json") left.push_back(item.path());
    }
    return left;
  }

  static AgentBed* bed;
};
AgentBed* AgentTest::bed = nullptr;

TEST_F(AgentTest, RunsARedisAndStopsItWithoutAnythingLeft) {
  auto run = run_redis();
  ASSERT_EQ(run.exit_code, 0) << run.error << bed->agent_log();
  EXPECT_THAT(run.out, HasSubstr("redis running at 192.0.2.10/24, pid "));
  EXPECT_TRUE(redis_answers(kAddress));

  json item = workload("redis");
  EXPECT_EQ(item["state"], "running");
  EXPECT_EQ(item["command"][0], "/usr/bin/redis-server");
  EXPECT_EQ(item["cgroup"], bed->cgroup() + "/redis");
  EXPECT_NE(if_nametoindex(item["host_device"].get<std::string>().c_str()), 0u);
  std::ifstream log(item["log"].get<std::string>());
  EXPECT_THAT(std::string(std::istreambuf_iterator<char>(log), {}), HasSubstr("Ready to accept connections"));
  // Process 1 is the init from the workload's own root, and sees nothing but root, /proc and its log.
  std::string pid = std::to_string(item["pid"].get<int>());
  EXPECT_EQ(fs::read_symlink("/proc/" + pid + "/exe").filename(), "mose-init");
  std::ifstream mounts("/proc/" + pid + "/mountinfo");
  EXPECT_EQ(std::count(std::istreambuf_iterator<char>(mounts), {}, '\n'), 3);

  auto stop = bed->mose({"stop", "redis"});
  EXPECT_EQ(stop.exit_code, 0) << stop.error;
  EXPECT_FALSE(redis_answers(kAddress, 100ms));
  EXPECT_THAT(leftovers(), testing::IsEmpty());
  EXPECT_TRUE(run_redis().exit_code == 0) << "the name and the address are free again";
}

TEST_F(AgentTest, NothingTiesAFreshRedisToItsNode) {
  ASSERT_EQ(run_redis().exit_code, 0);
  ASSERT_TRUE(redis_answers(kAddress));
  json item = workload("redis");
  auto init = ProcessHandle::open(item["pid"].get<int>());
  ASSERT_TRUE(init);
  WorkloadSpec spec;
  spec.name = "redis";
  EXPECT_THAT(agent::check_workload(spec, *init, item["cgroup"]), testing::IsEmpty());
}

// Whether node.bpffs names the file system or our own directory in it: run, steer and stop look for pins at one place.
TEST_F(AgentTest, PinsLieAtOnePlaceWhereverBpffsIsSaidToBe) {
  bed->terminate_agent();
  std::string text = bed->configuration();
  text.insert(text.find("[node]\n") + 7, "bpffs = \"/sys/fs/bpf/mose\"\n");
  bed->start_agent_with(text);
  ASSERT_EQ(run_redis().exit_code, 0);
  EXPECT_TRUE(redis_answers(kAddress));
  EXPECT_FALSE(fs::is_empty("/sys/fs/bpf/mose"));
  EXPECT_FALSE(fs::exists("/sys/fs/bpf/mose/mose"));
  EXPECT_EQ(bed->mose({"steer", "show", "redis"}).exit_code, 0);
  EXPECT_EQ(bed->mose({"stop", "redis"}).exit_code, 0);
  EXPECT_THAT(leftovers(), testing::IsEmpty());
}

TEST_F(AgentTest, EventsTellWhatHappens) {
  std::string file = bed->directory() + "/events";
  std::thread follower([&] {
    (void)run_program({"/bin/sh", "-c",
                       "exec timeout 3 " + bed->program("mose") + " --socket " + bed->socket() +
                           " events --follow --json > " + file});
  });
  std::this_thread::sleep_for(500ms);
  EXPECT_EQ(run_shell("short", "exit 0").exit_code, 0);
  EXPECT_TRUE(wait_state("short", "exited"));
  follower.join();
  std::ifstream lines(file);
  std::vector<std::string> kinds;
  for (std::string line; std::getline(lines, line);) {
    json event = json::parse(line, nullptr, false);
    if (event.is_object() && event["subject"] == "short") kinds.push_back(event["kind"]);
  }
  EXPECT_THAT(kinds, testing::ElementsAre("workload.starting", "workload.running", "workload.exited"));
}

TEST_F(AgentTest, AnAgentThatIsRestartedAdoptsItsWorkloads) {
  ASSERT_EQ(run_redis().exit_code, 0);
  json before = workload("redis");
  bed->terminate_agent();
  EXPECT_TRUE(redis_answers(kAddress)) << "a workload does not depend on the agent";
  bed->start_agent();
  json after = workload("redis");
  EXPECT_EQ(after, before);
  auto stop = bed->mose({"stop", "redis"});
  EXPECT_EQ(stop.exit_code, 0) << stop.error;
}

TEST_F(AgentTest, AnAgentThatIsKilledLeavesItsWorkloadsRunningAndTheNextAdoptsThem) {
  ASSERT_EQ(run_redis().exit_code, 0);
  json before = workload("redis");
  bed->kill_agent();
  EXPECT_TRUE(redis_answers(kAddress));
  bed->start_agent();
  EXPECT_EQ(workload("redis"), before);
  EXPECT_TRUE(redis_answers(kAddress));
}

TEST_F(AgentTest, AWorkloadThatEndedWhileNoAgentRanIsSeenAsEnded) {
  ASSERT_EQ(run_redis().exit_code, 0);
  json before = workload("redis");
  bed->kill_agent();
  auto first = ProcessHandle::open(before["pid"].get<int>());
  ASSERT_TRUE(first);
  ASSERT_TRUE(first->signal(SIGKILL));
  // The first process of a namespace ends after all the others.
  for (Timestamp deadline = now() + 10s; first->alive() && now() < deadline;) std::this_thread::sleep_for(5ms);
  bed->start_agent();
  json after = workload("redis");
  EXPECT_EQ(after["state"], "exited");
  EXPECT_THAT(after["exit_status"], HasSubstr("while the agent was not running"));
  EXPECT_TRUE(after["pid"].is_null());
}

TEST_F(AgentTest, TheEndOfAWorkloadIsNoticedWithItsStatus) {
  ASSERT_EQ(run_shell("short", "sleep 0.3; exit 3").exit_code, 0);
  ASSERT_TRUE(wait_state("short", "exited"));
  EXPECT_EQ(workload("short")["exit_status"], "exit status 3");
  ASSERT_EQ(run_shell("short", "sleep 0.3; kill -9 $$").exit_code, 0) << "the name of one that has ended may be used again";
  ASSERT_TRUE(wait_state("short", "exited"));
  EXPECT_EQ(workload("short")["exit_status"], "exit status 137");
  auto cleanup = bed->mose({"cleanup"});
  EXPECT_EQ(cleanup.exit_code, 0);
  EXPECT_THAT(cleanup.out, HasSubstr("workload short forgotten"));
  EXPECT_EQ(workload("short"), json());
  EXPECT_THAT(bed->mose({"cleanup"}).out, HasSubstr("nothing to clean up"));
}

TEST_F(AgentTest, TheInitPassesSignalsOnAndReapsOrphans) {
  ASSERT_EQ(run_shell("init",
                      "trap 'exit 7' TERM; (sleep 0.05 & sleep 0.05 &) ; sleep 0.3; echo so far; while :; do read x < "
                      "/dev/null; done")
                .exit_code,
            0);
  ASSERT_TRUE(wait_output("init", "so far"));
  std::string pid = std::to_string(workload("init")["pid"].get<int>());
  std::ifstream children("/proc/" + pid + "/task/" + pid + "/children");
  std::string list(std::istreambuf_iterator<char>(children), {});
  EXPECT_EQ(std::count(list.begin(), list.end(), ' '), 1) << "orphans are reaped, only the shell is left: " << list;
  kill(std::stoi(pid), SIGTERM);
  ASSERT_TRUE(wait_state("init", "exited"));
  EXPECT_EQ(workload("init")["exit_status"], "exit status 7");
}

TEST_F(AgentTest, OneThatIgnoresSigtermIsKilledAfterTheGrace) {
  ASSERT_EQ(run_shell("stubborn", "trap '' TERM; echo so far; while :; do sleep 0.05; done").exit_code, 0);
  ASSERT_TRUE(wait_output("stubborn", "so far"));
  Timestamp before = now();
  auto stop = bed->mose({"stop", "stubborn", "--grace", "300ms"});
  EXPECT_EQ(stop.exit_code, 0) << stop.error;
  EXPECT_GE(now() - before, Nanoseconds(300ms));
  EXPECT_THAT(leftovers(), testing::IsEmpty());
}

TEST_F(AgentTest, MountsAreWhereTheyWereDeclared) {
  std::string data = bed->directory() + "/data";
  fs::create_directories(data);
  auto run = bed->mose({"run", "mounts", "--address", "192.0.2.20/24", "--root", bed->root(), "--mount",
                        data + ":/data:copy", "--env", "WORD=hello", "--", "/bin/sh", "-c",
                        "echo $WORD > /data/file; echo x > /tmp/file && echo bad; sleep 1000"});
  ASSERT_EQ(run.exit_code, 0) << run.error;
  std::string text;
  for (int i = 0; i < 100 && text.empty(); ++i, std::this_thread::sleep_for(20ms)) {
    std::ifstream file(data + "/file");
    text = std::string(std::istreambuf_iterator<char>(file), {});
  }
  EXPECT_EQ(text, "hello\n");
  EXPECT_FALSE(fs::exists(bed->root() + "/tmp/file")) << "the root is read-only";
}

// Or another workload of that name that arrives later would delete them.
TEST_F(AgentTest, TheFilesOfACopiedMountAreNobodysWhenTheWorkloadIsForgotten) {
  const std::string data = bed->directory() + "/copied-data", state = bed->directory() + "/state/workloads/copied";
  fs::create_directories(data);
  WorkloadSpec spec;
  spec.mounts = {{data, "/data", MountMode::copy, false}};
  auto run = [&](const std::string& script) {
    return bed->mose({"run", "copied", "--address", "192.0.2.20/24", "--root", bed->root(), "--mount", data + ":/data:copy", "--",
                      "/bin/sh", "-c", script});
  };
  std::ofstream(data + "/file") << "kept\n";
  ASSERT_EQ(run("sleep 1000").exit_code, 0);
  ASSERT_TRUE(agent::mark_copied(state, spec));
  ASSERT_EQ(bed->mose({"stop", "copied", "--grace", "200ms"}).exit_code, 0);
  EXPECT_FALSE(agent::copied_here(state, data)) << "stop";

  ASSERT_TRUE(agent::mark_copied(state, spec));
  ASSERT_EQ(run("exit 0").exit_code, 0);
  EXPECT_FALSE(agent::copied_here(state, data)) << "a new one's files are its own";
  ASSERT_TRUE(wait_state("copied", "exited"));
  ASSERT_TRUE(agent::mark_copied(state, spec));
  ASSERT_EQ(bed->mose({"cleanup"}).exit_code, 0);
  EXPECT_FALSE(agent::copied_here(state, data)) << "cleanup";
  EXPECT_TRUE(fs::exists(data + "/file"));
}

struct RefusedRun {
  std::vector<std::string> arguments;
  int exit_code;
  const char* reason;
};

TEST_F(AgentTest, RefusesBeforeAnythingIsTouched) {
  ASSERT_EQ(run_redis().exit_code, 0);
  std::string root = bed->root();
  std::string bare = bed->directory() + "/bare";
  fs::create_directories(bare + "/proc");
  std::string without_devices = bed->directory() + "/without-devices";
  for (const char* path : {"/proc", "/dev", "/var/log/mose-workload", "/usr/libexec/mose"})
    fs::create_directories(without_devices + path);
  fs::copy_file(root + "/usr/libexec/mose/mose-init", without_devices + "/usr/libexec/mose/mose-init");
  // As the node's own /dev is on its /: the workload will not have it.
  ASSERT_EQ(mount((root + "/dev").c_str(), (without_devices + "/dev").c_str(), nullptr, MS_BIND, nullptr), 0);
  // As a node that has its /opt on a file system of its own.
  fs::create_directories(root + "/opt");
  ASSERT_EQ(mount("tmpfs", (root + "/opt").c_str(), "tmpfs", 0, "mode=755"), 0);
  fs::create_directories(root + "/opt/data");
  fs::copy_file(root + "/bin/sleep", root + "/opt/tool");
  const std::vector<RefusedRun> table = {
      {{"run", "redis", "--address", "192.0.2.11/24", "--root", root, "--", "sleep", "9"},
       3,
       "a workload named redis is running here already"},
      {{"run", "x", "--address", "192.0.2.10/24", "--root", root, "--", "sleep", "9"},
       3,
       "address 192.0.2.10 is already used by workload redis"},
      {{"run", "x", "--address", "192.0.2.1/24", "--root", root, "--", "sleep", "9"},
       3,
       "address 192.0.2.1 is already used by br0"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", "/nowhere", "--", "sleep", "9"},
       3,
       "root /nowhere is not a directory"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", bare, "--", "sleep", "9"},
       3,
       "has no program /usr/libexec/mose/mose-init"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", without_devices, "--", "sleep", "9"},
       3,
       "has no device node /dev/null; make it there with `/usr/libexec/mose/root-devices ROOT`"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--", "nothing"},
       3,
       "command nothing is not found in root"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--", "/dev/null"},
       3,
       "command /dev/null is not a program in root"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--", "/opt/tool", "9"},
       3,
       "correct the path (what is mounted below the root on the node is not seen in it)"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--env", "PATH=/opt", "--", "tool", "9"},
       3,
       "give its path (what is mounted below the root on the node is not seen in it)"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--mount", root + ":/data:identical:ro", "--",
        "/data/opt/tool", "9"},
       3,
       "command /data/opt/tool is not a program in root"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--mount", "/var/tmp:/opt/data:copy", "--", "sleep", "9"},
       3,
       "make it there (what is mounted below the root on the node is not seen in it)"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--mount", "/nowhere:/data:copy", "--", "sleep", "9"},
       3,
       "mount source /nowhere cannot be used"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--mount", "/var/tmp:/nowhere:copy", "--", "sleep", "9"},
       3,
       "mount target /nowhere does not exist in root"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--mount", "/etc/passwd:/data:copy", "--", "sleep",
        "9"},
       3,
       "one is a directory, the other is not"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--mount", "/var/tmp:/data:copy", "--mount",
        "/var/tmp:/data:copy", "--", "sleep", "9"},
       2,
       "mount target /data is declared twice"},
      {{"run", "X!", "--address", "192.0.2.11/24", "--root", root, "--", "sleep", "9"},
       2,
       "\"X!\" is not a workload name"},
      {{"run", "x", "--address", "192.0.2.11", "--root", root, "--", "sleep", "9"},
       2,
       "is not an address with a prefix"},
      {{"run", "x", "--address", "192.0.2.11/24", "--root", root, "--env", "WORD", "--", "sleep", "9"},
       2,
       "is not an environment entry"},
      {{"stop", "nobody"}, 2, "no workload named nobody is known here"},
      {{"migrate", "nobody", "--to", "b"}, 2, "no workload named \"nobody\" is known here"},
      {{"migrate", "redis", "--to", "c"}, 2, "no node named \"c\" is known here"},
      {{"migrate", "redis", "--to", "a"}, 2, "node a is this node"},
      {{"migrate", "redis", "--to", "b", "--objective", "resources"}, 3, "not available in this version"},
      {{"migrate", "redis", "--to", "b", "--steer", "xdp"},
       3,
       "stragglers cannot be redirected at XDP on node a: node.uplink is not set; leave --steer out"},
      {{"migrate", "redis", "--to", "b", "--steer", "xdp", "--dry-run"}, 3, "stragglers cannot be redirected at XDP"},
      // Nothing here makes use of it, whether the kernel has it or not.
      {{"migrate", "redis", "--to", "b", "--tracker", "soft-dirty"},
       3,
       "written pages cannot be found with --tracker soft-dirty on this host: "},
      {{"migrate", "redis", "--to", "b", "--tracker", "soft-dirty", "--dry-run"}, 3, "leave it out, or use hash"},
      {{"migrate", "redis", "--to", "b", "--auto-converge", "--strategy", "cold"},
       2,
       "strategy cold sends nothing while the workload runs"},
      {{"migrate", "redis", "--to", "b", "--max-downtime", "50ms"},
       3,
       "which this version does not make: leave them out"},
      {{"migrate", "redis", "--to", "b", "--max-total", "5s"}, 3, "which this version does not make: leave them out"},
      {{"migrate", "redis", "--to", "b", "--max-stall", "10ms"},
       3,
       "not available in this version; leave --max-stall out"},
      {{"show", "ffff"}, 2, "no migration ffff is known here"},
      {{"cancel", "ffff"}, 2, "no migration ffff is under way here"},
      {{"recover", "ffff"}, 2, "no migration ffff is under way here"},
      {{"steer", "explain", "x"}, 2, "is not a flow such as"},
      {{"steer", "explain", "tcp", "192.0.2.1:1", "192.0.2.2:2"}, 2, "is the address of a workload of node"},
      {{"steer", "show", "192.0.2.77"}, 2, "no service \"192.0.2.77\" is steered"},
      {{"steer", "release", "192.0.2.77"}, 2, "no service \"192.0.2.77\""},
  };
  for (const RefusedRun& row : table) {
    auto output = bed->mose(row.arguments);
    EXPECT_EQ(output.exit_code, row.exit_code) << row.reason << "\n" << output.error;
    EXPECT_THAT(output.error, HasSubstr(row.reason));
    EXPECT_EQ(output.out, "");
  }
  EXPECT_EQ(umount2((without_devices + "/dev").c_str(), MNT_DETACH), 0);
  EXPECT_EQ(umount2((root + "/opt").c_str(), MNT_DETACH), 0);
  EXPECT_EQ(workloads().size(), 1u);
  EXPECT_TRUE(redis_answers(kAddress)) << "the one that runs was not touched";
  ASSERT_EQ(bed->mose({"stop", "redis"}).exit_code, 0);
  EXPECT_THAT(leftovers(), testing::IsEmpty());
}

// A disk is a file that root may write.
TEST_F(AgentTest, ARootWithTheNodesDevicesIsRefused) {
  const std::string root = bed->root();
  ASSERT_EQ(mknod((root + "/dev/disk").c_str(), S_IFBLK | 0600, makedev(254, 99)), 0);
  const std::vector<std::string> words = {"run", "disk", "--address", "192.0.2.30/24", "--root", root, "--", "sleep", "9"};
  auto refused = bed->mose(words);
  EXPECT_EQ(refused.exit_code, 3);
  EXPECT_THAT(refused.error, HasSubstr("would be given /dev/disk (block 254:99): remove that from its root"));
  std::vector<std::string> all = words;
  all.insert(all.begin() + 1, "--all-capabilities");
  auto started = bed->mose(all);
  EXPECT_EQ(started.exit_code, 0) << started.error;
  EXPECT_EQ(bed->mose({"stop", "disk"}).exit_code, 0);
  ASSERT_EQ(unlink((root + "/dev/disk").c_str()), 0);

  std::vector<std::string> mounted = words;
  mounted.insert(mounted.end() - 3, {"--mount", "/dev:/dev:identical:ro"});
  auto running = bed->mose(mounted);
  EXPECT_EQ(running.exit_code, 3);
  EXPECT_THAT(running.error, HasSubstr("more: remove that from its root"));
}

TEST_F(AgentTest, WithJsonARefusalIsAnObjectOnStandardOutput) {
  auto output = bed->mose({"stop", "nobody", "--json"});
  EXPECT_EQ(output.exit_code, 2);
  json value = json::parse(output.out, nullptr, false);
  ASSERT_TRUE(value.is_object()) << output.out;
  EXPECT_EQ(value["error"]["exit_code"], 2);
  EXPECT_THAT(value["error"]["reason"], HasSubstr("nobody"));
}

// The unit makes the agent the last to be ended for lack of memory.
TEST_F(AgentTest, WorkloadsAreEndedForLackOfMemoryLikeOtherPrograms) {
  auto score = [](const std::string& pid) {
    int value = -1;
    std::ifstream("/proc/" + pid + "/oom_score_adj") >> value;
    return value;
  };
  bed->terminate_agent();
  std::ofstream("/proc/self/oom_score_adj") << 200 << std::flush;  // less than others' needs a privilege that may be lacking
  bed->start_agent();
  std::ofstream("/proc/self/oom_score_adj") << 0 << std::flush;
  ASSERT_EQ(score(std::to_string(bed->agent_pid())), 200);
  ASSERT_EQ(run_redis().exit_code, 0);
  std::ifstream procs(bed->cgroup() + "/redis/cgroup.procs");
  unsigned seen = 0;
  for (std::string pid; std::getline(procs, pid); ++seen) EXPECT_EQ(score(pid), 0) << pid;
  EXPECT_GE(seen, 1u);
}

TEST_F(AgentTest, AProgramThatCannotBeStartedLeavesNothing) {
  std::ofstream(bed->root() + "/usr/bin/broken") << "#!/nowhere/interpreter\n";
  fs::permissions(bed->root() + "/usr/bin/broken", fs::perms::owner_all);
  auto run = bed->mose({"run", "broken", "--address", "192.0.2.11/24", "--root", bed->root(), "--", "broken"});
  ASSERT_EQ(run.exit_code, 0) << "the init has started";
  ASSERT_TRUE(wait_state("broken", "exited"));
  EXPECT_EQ(workload("broken")["exit_status"], "exit status 127");
}

// Starts mose migrate and waits until it has its handlers for interrupts.
pid_t start_migrate(const AgentBed& bed, const std::string& error_file) {
  pid_t child = fork();
  if (child == 0) {
    (void)freopen(error_file.c_str(), "w", stderr);
    execl(bed.program("mose").c_str(), "mose", "--socket", bed.socket().c_str(), "migrate", "redis", "--to", "b",
          nullptr);
    _exit(127);
  }
  for (int i = 0; i < 400; ++i, std::this_thread::sleep_for(10ms)) {
    std::ifstream status("/proc/" + std::to_string(child) + "/status");
    for (std::string line; std::getline(status, line);) {
      constexpr uint64_t kTerm = 1ull << (SIGTERM - 1);
      if (line.starts_with("SigCgt:") && (std::stoull(line.substr(7), nullptr, 16) & kTerm) != 0) return child;
    }
  }
  ADD_FAILURE() << "mose migrate takes no interrupts";
  return child;
}

bool wait_file(const std::string& path, const std::string& word) {
  for (int i = 0; i < 400; ++i, std::this_thread::sleep_for(10ms)) {
    std::ifstream file(path);
    if (std::string(std::istreambuf_iterator<char>(file), {}).find(word) != std::string::npos) return true;
  }
  return false;
}

TEST_F(AgentTest, TwoInterruptsEndAMigrateThatTheAgentDoesNotAnswerAndNothingIsBegun) {
  ASSERT_EQ(run_redis().exit_code, 0);
  kill(bed->agent_pid(), SIGSTOP);
  const std::string errors = bed->directory() + "/migrate.err";
  pid_t client = start_migrate(*bed, errors);
  kill(client, SIGTERM);
  EXPECT_TRUE(wait_file(errors, "interrupt again to leave"));
  kill(client, SIGTERM);
  int status = 0;
  for (int i = 0; i < 400 && waitpid(client, &status, WNOHANG) == 0; ++i) std::this_thread::sleep_for(10ms);
  if (kill(client, SIGKILL) == 0) ADD_FAILURE() << "it stays";
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 6) << status;
  EXPECT_TRUE(wait_file(errors, "whether redis is being moved is not known: see mose status"));
  kill(bed->agent_pid(), SIGCONT);
  EXPECT_EQ(bed->mose({"status", "--json"}).out, kNothingUnderWay);
  EXPECT_EQ(bed->mose({"history", "--json"}).out, "[]\n");
  EXPECT_EQ(workload("redis")["state"], "running");
  EXPECT_THAT(bed->agent_log(), HasSubstr("who asked for it has left"));
}

TEST_F(AgentTest, WithoutAnAgentEveryVerbEndsWith6) {
  bed->terminate_agent();
  for (const std::vector<std::string>& verb :
       std::vector<std::vector<std::string>>{{"ping"},
                                             {"workloads"},
                                             {"nodes"},
                                             {"status"},
                                             {"history"},
                                             {"check"},
                                             {"cleanup"},
                                             {"stop", "x"},
                                             {"cancel", "x"},
                                             {"show", "x"},
                                             {"events", "--follow"},
                                             {"steer", "show"},
                                             {"migrate", "x", "--to", "b"},
                                             {"run", "x", "--address", "192.0.2.11/24", "--", "sleep"}}) {
    auto output = bed->mose(verb);
    EXPECT_EQ(output.exit_code, 6) << verb[0];
    EXPECT_THAT(output.error, HasSubstr("agent not running at " + bed->socket())) << verb[0];
  }
}

TEST_F(AgentTest, ASecondAgentOnTheSameDirectoryRefusesToStart) {
  auto second = bed->mosed_once(bed->configuration());
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.error, HasSubstr("another mosed (pid " + std::to_string(bed->agent_pid()) + ")"));
  EXPECT_EQ(bed->mose({"ping"}).exit_code, 0) << "the first one still answers";
}

// Both would go on with the migrations in its journals.
TEST_F(AgentTest, ASecondAgentOnTheSameStateAloneRefusesToStart) {
  std::string config = bed->configuration();
  config.replace(config.find("/run\""), 4, "/second-run");
  auto second = bed->mosed_once(config);
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.error, HasSubstr("another mosed (pid " + std::to_string(bed->agent_pid()) + ") runs with " + bed->directory() +
                                      "/state; stop it or set node.state_dir"));
  EXPECT_EQ(bed->mose({"ping"}).exit_code, 0) << "the first one still answers";
}

TEST_F(AgentTest, AnAgentThatOtherNodesCannotReachDoesNotStart) {
  // Directories of its own, so that only the port is taken.
  std::string config = bed->configuration();
  for (const std::string name : {"/state\"", "/run\""}) config.replace(config.find(name), name.size() - 1, "/second" + name.substr(1, name.size() - 2));
  auto second = bed->mosed_once(config);
  EXPECT_EQ(second.exit_code, 1) << second.error;
  EXPECT_THAT(second.error, HasSubstr("bind 127.0.0.1:7946: Address already in use; end what listens there or set node.listen"));
  EXPECT_EQ(bed->mose({"ping"}).exit_code, 0) << "the first one still answers";

  std::string listen = "127.0.0.1:7946";
  config.replace(config.find(listen), listen.size(), "192.0.2.99:7946");
  auto elsewhere = bed->mosed_once(config);
  EXPECT_EQ(elsewhere.exit_code, 1) << elsewhere.error;
  EXPECT_THAT(elsewhere.error, HasSubstr("bind 192.0.2.99:7946: Cannot assign requested address; set node.listen to an address of this node"));
}

TEST_F(AgentTest, AConfigurationThatIsWrongIsNamed) {
  auto output = bed->mosed_once(bed->configuration() + "[limits]\nhold = 3\n");
  EXPECT_EQ(output.exit_code, 2);
  EXPECT_THAT(output.error, HasSubstr("unknown key"));
  auto check = bed->mose({"config", "check", "--config", bed->directory() + "/once.toml"});
  EXPECT_EQ(check.exit_code, 2);
  EXPECT_THAT(check.error, HasSubstr("once.toml:"));
  auto good = bed->mose({"config", "check", "--config", bed->directory() + "/mose.toml"});
  EXPECT_EQ(good.exit_code, 0) << good.error;
  EXPECT_THAT(good.out, HasSubstr("bridge = \"br0\""));
}

TEST_F(AgentTest, AnUnknownOptionOfADaemonIsAUsageError) {
  for (const char* name : {"mosed", "mose-pager"}) {
    auto unknown = run_program({bed->program(name), "--foo"});
    EXPECT_EQ(unknown.exit_code, 2) << name;
    EXPECT_NE(unknown.error, "") << name;
    auto help = run_program({bed->program(name), "--help"});
    EXPECT_EQ(help.exit_code, 0) << name;
    EXPECT_THAT(help.out, HasSubstr("--help")) << name;
  }
  EXPECT_THAT(run_program({bed->program("mosed"), "--foo"}).error, HasSubstr("--foo"));
}

TEST_F(AgentTest, DirectoriesAndSocketBelongToRootOnly) {
  for (const char* name : {"/state", "/state/journal", "/state/workloads", "/run"}) {
    EXPECT_EQ(fs::status(bed->directory() + name).permissions(), fs::perms::owner_all) << name;
  }
  EXPECT_EQ(fs::status(bed->socket()).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(AgentTest, NodesStatusAndHistoryAnswer) {
  json nodes = json::parse(bed->mose({"nodes", "--json"}).out, nullptr, false);
  ASSERT_EQ(nodes.size(), 2u);
  EXPECT_EQ(nodes[0]["name"], "a");
  EXPECT_EQ(nodes[0]["self"], true);
  EXPECT_EQ(nodes[0]["problem"], nullptr);
  EXPECT_EQ(nodes[1]["name"], "b");
  EXPECT_THAT(nodes[1]["problem"].dump(), HasSubstr("node b cannot be reached"));
  EXPECT_EQ(bed->mose({"status", "--json"}).out, kNothingUnderWay);
  EXPECT_EQ(bed->mose({"history", "--json"}).out, "[]\n");
}

// Its peer refuses connections at once, and need not be waited for.
std::string with_a_peer_that_is_down(std::string configuration) {
  const std::string address = "192.0.2.200:7946";
  return configuration.replace(configuration.find(address), address.size(), "127.0.0.1:1");
}

TEST_F(AgentTest, ADamagedJournalIsShownWithItsFileAndForgottenWhenThatIsGone) {
  bed->terminate_agent();
  const std::string id = "00112233445566778899aabbccddeeff";
  const std::string path = bed->directory() + "/state/journal/" + id + ".source";
  std::ofstream(path) << "nonsense\n";
  bed->start_agent_with(with_a_peer_that_is_down(bed->configuration()));
  auto shown = bed->mose({"status"});
  EXPECT_THAT(shown.out, HasSubstr("00112233 is undecided: its journal is damaged: journal " + path +
                                   " has no readable first line"));
  EXPECT_THAT(shown.out, HasSubstr("`mose recover " + id + "` shows what both nodes have of it"));
  auto still = bed->mose({"recover", id, "--yes"});
  EXPECT_EQ(still.exit_code, 3);
  EXPECT_THAT(still.out, HasSubstr("stays undecided"));
  fs::rename(path, bed->directory() + "/damaged-journal");
  EXPECT_THAT(bed->mose({"status"}).out,
              HasSubstr("its journal " + path + " is gone; `mose recover " + id + "` shows"));
  auto asked = bed->mose({"recover", id});
  EXPECT_EQ(asked.exit_code, 3) << "nobody has agreed";
  EXPECT_THAT(asked.error, HasSubstr("--yes"));
  EXPECT_EQ(bed->mose({"recover", id, "--dry-run"}).exit_code, 0);
  EXPECT_NE(bed->mose({"status", "--json"}).out, kNothingUnderWay) << "it was only shown";
  auto forgotten = bed->mose({"recover", id, "--yes"});
  EXPECT_EQ(forgotten.exit_code, 0) << forgotten.error;
  EXPECT_THAT(forgotten.out, HasSubstr("is forgotten: its journal is gone"));
  EXPECT_EQ(bed->mose({"status", "--json"}).out, kNothingUnderWay);
}

// The tree is stopped, and who stopped it cannot be read any more: perhaps it runs at the other node.
TEST_F(AgentTest, AStoppedWorkloadWhoseJournalIsGoneRunsOnlyByTheOperatorsWord) {
  ASSERT_EQ(run_redis().exit_code, 0);
  ASSERT_TRUE(redis_answers(kAddress));
  bed->kill_agent();
  const std::string id = "00112233445566778899aabbccddeeff", file = bed->directory() + "/state/workloads/redis.json";
  json record = json::parse(std::ifstream(file), nullptr, false);
  ASSERT_TRUE(record.is_object());
  record["state"] = "moving";
  record["migration"] = id;
  std::ofstream(file) << record.dump() << "\n";
  const std::string freeze = bed->cgroup() + "/redis/cgroup.freeze";
  std::ofstream(freeze) << "1";
  bed->start_agent_with(with_a_peer_that_is_down(bed->configuration()));
  EXPECT_EQ(workload("redis")["state"], "moving") << "it does not count as running";
  EXPECT_THAT(bed->mose({"status"}).out, HasSubstr("undecided: its journal"));
  auto unknown = bed->mose({"recover", "redis", "--yes"});
  EXPECT_EQ(unknown.exit_code, 3);
  EXPECT_THAT(unknown.out, testing::AllOf(HasSubstr("b (destination): no record; cannot be asked"), HasSubstr("find out (1) whether redis runs on node b"),
                                          HasSubstr("(2) whether redis stands here"), HasSubstr("--resume-here"), testing::Not(HasSubstr("cgroup.freeze"))));
  EXPECT_FALSE(redis_answers(kAddress, 500ms));
  json shown = json::parse(bed->mose({"recover", "redis", "--resume-here", "--dry-run", "--json"}).out, nullptr, false);
  ASSERT_TRUE(shown.is_object());
  EXPECT_EQ(shown["action"], "resume");
  EXPECT_EQ(shown["certain"], false);
  EXPECT_EQ(shown["done"], false);
  EXPECT_FALSE(redis_answers(kAddress, 500ms));
  auto resumed = bed->mose({"recover", "redis", "--resume-here", "--yes"});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_TRUE(redis_answers(kAddress));
  EXPECT_TRUE(wait_state("redis", "running"));
  bed->kill_agent();  // which would go on telling the other node
  bed->start_agent();
  EXPECT_EQ(workload("redis")["state"], "running");
  EXPECT_EQ(bed->mose({"status", "--json"}).out, kNothingUnderWay);
}

// A commit may stand in one of them: nobody who waits for it is let go, and nothing new begins.
TEST_F(AgentTest, WhileTheJournalsCannotBeReadNothingIsReleasedOrMoved) {
  ASSERT_EQ(run_redis().exit_code, 0);
  bed->terminate_agent();
  const std::string path = bed->directory() + "/state/workloads/redis.json";
  std::ifstream file(path);
  json record = json::parse(file);
  record["state"] = "moving";
  record["migration"] = "00112233445566778899aabbccddeeff";
  std::ofstream(path) << record;
  {
    UnreadableDirectory journals(bed->directory() + "/state/journal");
    if (!journals.works()) GTEST_SKIP() << "fanotify cannot deny here";
    bed->start_agent();
    ASSERT_EQ(workloads().size(), 1u);
    EXPECT_EQ(workloads()[0]["state"], "moving") << "it may stand still for a commit";
    auto refused = bed->mose({"migrate", "redis", "--to", "b"});
    EXPECT_EQ(refused.exit_code, 3);
    EXPECT_THAT(refused.error, HasSubstr("node a cannot read its journals (read " + bed->directory() + "/state/journal"));
    EXPECT_THAT(refused.error, HasSubstr("restart mosed there"));
    bed->terminate_agent();
  }
  bed->start_agent();
  EXPECT_EQ(workloads()[0]["state"], "running") << "no journal speaks of that move";
}

// The journal has the address of its time, where nobody is any more.
TEST_F(AgentTest, AnInterruptedMoveFindsItsPeerWhereTheConfigurationSaysNow) {
  ASSERT_EQ(run_redis().exit_code, 0);
  bed->terminate_agent();
  agent::JournalMeta meta;
  meta.id.bytes.fill(0x5a);
  meta.workload = "redis";
  meta.peer = "b";
  meta.peer_address = "192.0.2.250:7946";
  const std::string record_path = bed->directory() + "/state/workloads/redis.json", journals = bed->directory() + "/state/journal";
  std::ifstream file(record_path);
  json record = json::parse(file);
  record["state"] = "moving";
  record["migration"] = meta.id.hex();
  std::ofstream(record_path) << record;
  {
    auto journal = agent::Journal::create(journals, meta);
    ASSERT_TRUE(journal) << journal.error().what;
    ASSERT_TRUE(journal->append(plan::Record::begun));
  }
  Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  std::string configuration = bed->configuration();
  const std::string before = "192.0.2.200:7946";
  ASSERT_NE(configuration.find(before), std::string::npos);
  configuration.replace(configuration.find(before), before.size(), "127.0.0.1:" + std::to_string(ntohs(address.sin_port)));
  bed->start_agent_with(configuration);
  pollfd asked{listener.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&asked, 1, 5000), 1) << "it is told of the abort there";
  bed->kill_agent();
  fs::remove(agent::Journal::file_path(journals, meta.id, Role::source));
  bed->start_agent();
  EXPECT_EQ(workloads()[0]["state"], "running");
}

TEST_F(AgentTest, CheckSaysWhatThisHostCanDo) {
  auto output = bed->mose({"check", "--json"});
  json value = json::parse(output.out, nullptr, false);
  ASSERT_TRUE(value.is_object()) << output.error;
  EXPECT_EQ(output.exit_code, value["ok"] == true ? 0 : 1);
  std::map<std::string, json> items;
  for (const json& item : value["items"]) items[item["name"]] = item;
  for (const char* name : {"userfaultfd", "cgroup-freezer", "bpf", "tap-vnet-hdr", "tracking-cost", "bridge"}) {
    ASSERT_TRUE(items.contains(name)) << name;
    EXPECT_EQ(items[name]["state"], "yes") << items[name]["detail"];
  }
  ASSERT_TRUE(items.contains("uplink"));
  EXPECT_EQ(items["uplink"]["state"], "no");
  EXPECT_EQ(value["ok"], false) << "the uplink is required and not configured";
}

// A device of the test's own as the uplink: a veth, whose driver has native XDP.
class AgentUplinkTest : public AgentTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(run_program({"ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wire"}).exit_code, 0);
    ASSERT_EQ(run_program({"ip", "link", "set", "wan0", "master", "br0", "up"}).exit_code, 0);
    ASSERT_EQ(run_program({"ip", "link", "set", "wire", "up"}).exit_code, 0);
  }
  void TearDown() override {
    if (bed->agent_pid() != 0) bed->terminate_agent();
    (void)run_program({"ip", "link", "del", "wan0"});
    fs::remove_all("/sys/fs/bpf/mose/uplink:wan0");
  }
  // The configuration's [node] is the first section: the key is put there.
  static std::string with_steer(const std::string& steer) {
    std::string text = bed->configuration();
    text.insert(text.find("[node]\n") + 7, "uplink = \"wan0\"\nsteer = \"" + steer + "\"\n");
    return text;
  }
  static void start(const std::string& steer) { bed->start_agent_with(with_steer(steer)); }
  // "" or the mode in which an XDP program is on the device.
  static std::string xdp_of(const std::string& device) {
    json links = json::parse(run_program({"ip", "-j", "-d", "link", "show", "dev", device}).out, nullptr, false);
    if (!links.is_array() || !links[0].contains("xdp")) return "";
    return links[0]["xdp"]["mode"] == 1 ? "native" : links[0]["xdp"]["mode"] == 2 ? "generic" : "other";
  }
  static json check_item(const std::string& name) {
    json value = json::parse(bed->mose({"check", "--json"}).out, nullptr, false);
    for (const json& item : value["items"]) {
      if (item["name"] == name) return item;
    }
    return {};
  }
};

TEST_F(AgentUplinkTest, IsAttachedAsConfiguredAdoptedAndGivenBack) {
  start("xdp");
  EXPECT_EQ(xdp_of("wan0"), "native");
  json item = check_item("uplink-xdp");
  EXPECT_EQ(item["state"], "yes") << item;
  EXPECT_THAT(item["detail"].get<std::string>(), HasSubstr("wan0 has our program, native"));
  bed->kill_agent();
  EXPECT_EQ(xdp_of("wan0"), "native") << "what it redirects must not end with the agent";
  start("xdp");
  EXPECT_THAT(bed->agent_log(), HasSubstr("the uplink's XDP program was adopted"));
  auto cleanup = bed->mose({"cleanup"});
  EXPECT_THAT(cleanup.out, HasSubstr("the XDP program of uplink wan0 is detached: the next migration attaches it again"));
  EXPECT_EQ(xdp_of("wan0"), "");
  EXPECT_FALSE(fs::exists("/sys/fs/bpf/mose/uplink:wan0"));
  bed->terminate_agent();
  start("xdp-generic");
  EXPECT_EQ(xdp_of("wan0"), "generic");
  bed->terminate_agent();
  start("tc");
  EXPECT_EQ(xdp_of("wan0"), "") << "the next configuration removes what the last one left";
  EXPECT_EQ(check_item("uplink-xdp")["state"], "yes") << "the driver still has it";
}

TEST_F(AgentUplinkTest, OfAVirtualDeviceStaysAtTcUnlessAskedOtherwise) {
  start("auto");
  EXPECT_EQ(xdp_of("wan0"), "");
}

TEST_F(AgentUplinkTest, IsRefusedWithTheReasonAndWhatToTry) {
  auto at_bridge = bed->configuration();
  at_bridge.insert(at_bridge.find("[node]\n") + 7, "uplink = \"br0\"\nsteer = \"xdp\"\n");
  auto output = bed->mosed_once(at_bridge);
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_THAT(output.error, HasSubstr("XDP on uplink br0 (native)"));
  EXPECT_THAT(output.error, HasSubstr("its driver has no XDP of this mode"));
  EXPECT_THAT(output.error, HasSubstr("auto"));
  auto nowhere = bed->configuration();
  nowhere.insert(nowhere.find("[node]\n") + 7, "steer = \"xdp\"\n");
  EXPECT_THAT(bed->mosed_once(nowhere).error, HasSubstr("needs a device: set node.uplink"));
}

TEST_F(AgentTest, ADescribedWorkloadIsFoundByItsCgroup) {
  bed->terminate_agent();
  std::string group = bed->cgroup() + "/foreign";
  fs::create_directories(group);
  pid_t process = fork();
  if (process == 0) {
    std::ofstream(group + "/cgroup.procs") << "0" << std::flush;
    if (unshare(CLONE_NEWNET) != 0) _exit(1);
    for (;;) pause();
  }
  std::this_thread::sleep_for(100ms);
  auto veth = run_program(
      {"ip", "link", "add", "foreign0", "type", "veth", "peer", "name", "eth0", "netns", std::to_string(process)});
  ASSERT_EQ(veth.exit_code, 0) << veth.error;
  fs::create_directories(bed->directory() + "/workloads.d");
  std::ofstream(bed->directory() + "/workloads.d/web.toml")
      << "cgroup = \"" << group << "\"\naddresses = [\"192.0.2.30/24\"]\n";
  std::ofstream(bed->directory() + "/workloads.d/bad.toml") << "cgroup = 3\n";
  bed->start_agent();
  json item = workload("web");
  EXPECT_EQ(item["state"], "running");
  EXPECT_EQ(item["origin"], "described");
  EXPECT_EQ(item["pid"], process);
  EXPECT_EQ(item["host_device"], "foreign0") << "found by its eth0";
  auto stop = bed->mose({"stop", "web"});
  EXPECT_EQ(stop.exit_code, 3);
  EXPECT_THAT(stop.error, HasSubstr("was started by others"));
  EXPECT_THAT(bed->mose({"workloads"}).out,
              HasSubstr("not usable: " + bed->directory() + "/workloads.d/bad.toml:1: cgroup must be a string"));
  kill(process, SIGKILL);
  EXPECT_TRUE(wait_state("web", "waiting"));
  waitpid(process, nullptr, 0);
  process = fork();
  if (process == 0) {
    std::ofstream(group + "/cgroup.procs") << "0" << std::flush;
    for (;;) pause();
  }
  EXPECT_TRUE(wait_state("web", "running")) << "found again when somebody has started it";
  EXPECT_EQ(workload("web")["pid"], process);
  kill(process, SIGKILL);
  waitpid(process, nullptr, 0);
  fs::remove_all(bed->directory() + "/workloads.d");
  fs::remove(group);
}

}  // namespace
}  // namespace mose::test
