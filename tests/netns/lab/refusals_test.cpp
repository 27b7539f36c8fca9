// SPDX-License-Identifier: MIT
// What `mose migrate` refuses because of the other node: the real programs on a real lab, one reason after the other, each
// made and taken away again. The workload goes on, and moves when nothing stands in the way any more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "kernel/netns.h"
#include "kernel/socket.h"
#include "lab/agent.h"
#include "lab/stock_end.h"
#include "live_lab.h"
#include "move/frame_buffer.h"
#include "move/hello.h"

namespace mose::lab {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kLab = "t-refuse";
constexpr const char* kWorkload = "redis";
constexpr const char* kCopied = "/srv/mose-copied";  // at both nodes; the workload sees it as kTarget
constexpr const char* kTarget = "/mnt";
constexpr Nanoseconds kCommandBound = std::chrono::seconds(30);

// A node of another version, in whose place no mosed of this build can stand: it answers HELLO and nothing else.
class NodeOfAnotherVersion {
 public:
  NodeOfAnotherVersion(const std::string& netns_path, const std::string& endpoint) {
    auto netns = open_file(netns_path, O_RDONLY);
    auto listener = netns ? in_netns_get<Fd>(netns->get(), [&] { return tcp_listen(endpoint); }) : Result<Fd>(std::unexpected(netns.error()));
    EXPECT_TRUE(listener) << listener.error().what;
    if (!listener) return;
    listener_ = std::move(*listener);
    thread_ = std::thread([this] {
      while (!stop_) answer_one();
    });
  }
  ~NodeOfAnotherVersion() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  void answer_one() {
    constexpr int kLookMs = 50;
    pollfd waiting{listener_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, kLookMs) != 1) return;
    auto accepted = tcp_accept(listener_.get(), /*non_blocking=*/true);
    if (!accepted || !accepted->socket.valid()) return;
    move::StreamSocket socket(std::move(accepted->socket));
    move::FrameReader reader;
    while (!stop_) {
      pollfd readable{socket.fd(), POLLIN, 0};
      if (::poll(&readable, 1, kLookMs) == 0) continue;
      auto frame = reader.read(socket);
      if (!frame) return;
      if (!*frame) continue;
      move::Hello newer = move::local_hello("b", move::Purpose::control);
      newer.version_min = newer.version_max = wire::kVersionMax + 1;
      move::FrameWriter writer;
      EXPECT_TRUE(writer.push(wire::FrameType::hello, (*frame)->stream, move::encode_hello(newer)));
      EXPECT_TRUE(writer.flush(socket));
    }
  }

  Fd listener_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

// Traces every process of a cgroup as strace -p does, which stops none of them; ends with this object. In a pid namespace
// if one is given: what is traced does not see who traces it from outside of its own.
class Debugger {
 public:
  Debugger(const std::string& cgroup, int pid_namespace) {
    int started[2], end[2];
    EXPECT_EQ(::pipe(started), 0);
    EXPECT_EQ(::pipe(end), 0);
    child_ = ::fork();
    if (child_ == 0) {
      ::close(end[1]);
      ::_exit(pid_namespace < 0 || ::setns(pid_namespace, CLONE_NEWPID) == 0 ? enter_and_trace(cgroup, started[1], end[0]) : 1);
    }
    ::close(started[1]);
    ::close(end[0]);
    end_ = Fd(end[1]);
    EXPECT_EQ(::read(started[0], &seized_, sizeof seized_), static_cast<ssize_t>(sizeof seized_));
    ::close(started[0]);
  }
  ~Debugger() {
    end_.reset();
    int status = 0;
    EXPECT_EQ(::waitpid(child_, &status, 0), child_);
    EXPECT_EQ(status, 0);
  }
  [[nodiscard]] int seized() const { return seized_; }

 private:
  // A child is in the namespace that its parent has entered; the file shows pids as who reads it would call them.
  static int enter_and_trace(const std::string& cgroup, int started, int end) {
    pid_t tracer = ::fork();
    if (tracer == 0) {
      std::istringstream pids(read_file(cgroup + "/cgroup.procs").value_or(""));
      int count = 0;
      for (pid_t pid; pids >> pid;) count += ::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) == 0 ? 1 : 0;
      char nothing;
      const bool told = ::write(started, &count, sizeof count) == static_cast<ssize_t>(sizeof count);
      ::_exit(told && ::read(end, &nothing, 1) == 0 ? 0 : 1);
    }
    int status = 1;
    return ::waitpid(tracer, &status, 0) == tracer && status == 0 ? 0 : 1;
  }

  pid_t child_ = -1;
  Fd end_;
  int seized_ = -1;
};

class Refusals : public test::LiveLab {
 protected:
  Refusals() : LiveLab(kLab, kCommandBound) {}

  void SetUp() override {
    LabOptions options;
    options.tls = false;  // a test's node that stands in for another version has no certificate
    ASSERT_NO_FATAL_FAILURE(make_lab(options));
    for (const char* node : kNodes) fs::create_directories(root(node) + kCopied);
    auto run = start_with_a_copy();
    ASSERT_EQ(run.exit_code, 0) << run.err;
  }
  ProgramResult start_with_a_copy() { return start_redis({"--mount", std::string(kCopied) + ":" + kTarget + ":copy"}); }
  // Whether a client gets through to it.
  [[nodiscard]] bool answers() const {
    auto client = Place::of_netns(names_.netns_path("client"));
    EXPECT_TRUE(client);
    ProgramSpec spec;
    spec.argv = {"bash", "-c",
                 std::string("exec 3<>/dev/tcp/") + kServiceAddress +
                     "/6379; echo PING >&3; read -t 5 line <&3; echo \"$line\""};
    spec.place = &*client;
    auto result = run_program(spec, "", kCommandBound);
    return result && result->out.find("PONG") != std::string::npos;
  }

  ProgramResult migrate(const std::vector<std::string>& options = {}, const std::string& workload = kWorkload) {
    std::vector<std::string> words = {"migrate", workload, "--to", "b"};
    words.insert(words.end(), options.begin(), options.end());
    return mose("a", words);
  }
  void expect_refused(int exit_code, const std::string& sentence) {
    SCOPED_TRACE(sentence);
    auto result = migrate();
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_THAT(result.err, HasSubstr(sentence));
    EXPECT_THAT(result.out, HasSubstr(exit_code == 3 ? ": refused: " : ": failed: "));  // the report
    EXPECT_THAT(mose("a", {"workloads"}).out, HasSubstr("running"));
  }

  // Whether a process of b has all these among its arguments (the first may be the end of a path).
  bool saw_program(const std::vector<std::string>& words, Nanoseconds bound) const {
    for (Timestamp deadline = now() + bound; now() < deadline; ::usleep(5'000)) {
      std::istringstream pids(read_file(state_.cgroup + "/b/system/cgroup.procs").value_or(""));
      for (std::string pid; pids >> pid;) {
        std::string line = "/" + read_file("/proc/" + pid + "/cmdline").value_or("");
        bool all = std::ranges::all_of(words, [&](const std::string& word) { return line.find(word + '\0') != std::string::npos; });
        if (all) return true;
      }
    }
    return false;
  }

  Status in_b(std::function<Status()> body) const {
    MOSE_ASSIGN(auto place, open_node(state_, "b"));
    return in_place(place.place, body);
  }
  // What the kernel tells b's agent is replaced as a container's lxcfs does it; empty: the kernel's own word again.
  void overlay(const std::string& file, const std::string& text) const {
    auto status = in_b([&]() -> Status {
      if (text.empty()) return ::umount2(file.c_str(), MNT_DETACH) == 0 ? Status{} : fail_errno("umount " + file);
      std::ofstream("/run/overlay") << text;
      if (::mount("/run/overlay", file.c_str(), nullptr, MS_BIND, nullptr) != 0) return fail_errno("mount over " + file);
      return ::unlink("/run/overlay") == 0 ? Status{} : fail_errno("unlink");
    });
    EXPECT_TRUE(status) << status.error().what;
  }
  void run_size(const std::string& size) const {
    auto status = in_b([&]() -> Status {
      std::string options = "mode=755,size=" + size;
      return ::mount("tmpfs", "/run", "tmpfs", MS_REMOUNT | MS_NOSUID | MS_NODEV, options.c_str()) == 0 ? Status{} : fail_errno("remount /run");
    });
    EXPECT_TRUE(status) << status.error().what;
  }
  // The node's agent anew, with this configuration on top of its own; empty: its own alone.
  void configure(const std::string& node, const std::string& text) {
    const std::string file = root(node) + "/etc/mose/conf.d/50-test.toml";
    std::error_code ignored;
    fs::remove(file, ignored);
    fs::create_directories(fs::path(file).parent_path());
    if (!text.empty()) std::ofstream(file) << text;
    auto restarted = restart_agent(names_, state_, node);
    ASSERT_TRUE(restarted) << restarted.error().what;
  }
  void restart_b(const std::string& limits = "") {
    configure("b", limits.empty() ? "" : "[limits]\n" + limits + "\n");
  }
  // Of all processes of its cgroup the one that the others come from; as this process calls it.
  pid_t init_of_workload() const {
    std::istringstream pids(read_file(state_.cgroup + "/a/workloads/" + kWorkload + "/cgroup.procs").value_or(""));
    pid_t first = 0;
    for (pid_t pid; pids >> pid;) first = first == 0 ? pid : std::min(first, pid);
    return first;
  }
  // A debugger that begins while the memory is copied.
  void expect_debugger_seen(int pid_namespace, const std::string& sentence) {
    SCOPED_TRACE(sentence);
    ProgramResult moved;
    // Some seconds of copying: where everything is sanitized `mose status` takes its time.
    std::thread client([&] { moved = migrate({"--max-bandwidth", "500kbit"}); });
    bool copying = false;
    for (Timestamp deadline = now() + kCommandBound; !copying && now() < deadline;) {
      copying = mose("a", {"status", "--json"}).out.find("\"precopy\"") != std::string::npos;
    }
    EXPECT_TRUE(copying);
    Debugger debugger(state_.cgroup + "/a/workloads/" + kWorkload, pid_namespace);
    EXPECT_GT(debugger.seized(), 0);
    client.join();
    EXPECT_EQ(moved.exit_code, 1) << moved.err;
    EXPECT_THAT(moved.err, HasSubstr(sentence));
    EXPECT_THAT(moved.out, ::testing::Not(HasSubstr("dump "))) << "it was noticed before CRIU tried";
    EXPECT_THAT(mose("a", {"workloads"}).out, HasSubstr("running"));
    EXPECT_TRUE(answers());
  }

};

// /proc/cpuinfo of processors that lack `flag`.
std::string without_flag(std::string cpuinfo, const std::string& flag) {
  for (size_t at; (at = cpuinfo.find(" " + flag + " ")) != std::string::npos;) cpuinfo.erase(at, flag.size() + 1);
  return cpuinfo;
}

TEST_F(Refusals, ComeWithTheirReasonAndTouchNothing) {
  ASSERT_TRUE(run_ip(names_.netns("client"), std::string("addr add ") + kServiceAddress + "/32 dev lo\n"));
  expect_refused(3, std::string("address ") + kServiceAddress + " is used by " + kClientMac + " on this segment");
  ASSERT_TRUE(run_ip(names_.netns("client"), std::string("addr del ") + kServiceAddress + "/32 dev lo\n"));

  const std::string foreign = root("b") + kCopied + "/somebody's";
  std::ofstream(foreign) << "not ours\n";
  expect_refused(3, std::string(kCopied) + " holds files here that the copy of mount " + kTarget + " would replace");
  EXPECT_TRUE(fs::remove(foreign)) << "it was left alone";

  ASSERT_TRUE(run_ip(names_.netns("b"), "link set br0 mtu 1400\n"));
  expect_refused(3, "packets of the workload have up to 1500 bytes (MTU of its device) and br0 takes 1400 here: raise that MTU");
  ASSERT_TRUE(run_ip(names_.netns("b"), "link set br0 mtu 1500\n"));

  overlay("/proc/meminfo", "MemTotal:         524288 kB\nMemFree:           10240 kB\nMemAvailable:      20480 kB\n");
  expect_refused(3, "node b refuses: 20.0 MiB of memory are available and the workload needs ");
  overlay("/proc/meminfo", "");

  run_size("8m");
  expect_refused(3, " free and the images need 16.0 MiB: free some space or set node.runtime_dir");
  run_size("50%");

  restart_b("store_bytes_max = \"1MiB\"");
  expect_refused(3, "of memory and limits.store_bytes_max allows 1.0 MiB here");

  // Only the dump tells how long the images are: the workload has stood still for it, and goes on.
  restart_b("images_bytes_max = \"64KiB\"");
  expect_refused(1, "at most 64.0 KiB are taken by node b: raise limits.images_bytes_max there");

  auto cpuinfo = read_file("/proc/cpuinfo");
  ASSERT_TRUE(cpuinfo);
  if (cpuinfo->find(" sse2 ") != std::string::npos) {
    overlay("/proc/cpuinfo", without_flag(*cpuinfo, "sse2"));
    restart_b();
    expect_refused(3, "node b lacks CPU features that the workload may use: sse2");
    overlay("/proc/cpuinfo", "");
  }

  {
    // Somebody mounts a part of the disk into the running workload.
    auto inside = Place::of_process(init_of_workload());
    ASSERT_TRUE(inside) << inside.error().what;
    auto mounted = in_place(*inside, []() -> Status {
      if (::mount("/srv", "/opt", nullptr, MS_BIND, nullptr) != 0) return fail_errno("mount");
      return ::mount(nullptr, "/opt", nullptr, MS_REMOUNT | MS_BIND, nullptr) == 0 ? Status{} : fail_errno("remount");
    });
    ASSERT_TRUE(mounted) << mounted.error().what;
    expect_refused(3, "the mount /opt (writable): nobody has declared how its contents get to the other node; declare it with --mount");
    auto unmounted = in_place(*inside, []() -> Status { return ::umount("/opt") == 0 ? Status{} : fail_errno("umount"); });
    ASSERT_TRUE(unmounted) << unmounted.error().what;
  }

  configure("a", "[node]\ncriu = \"/nowhere/criu\"\n");
  auto without_criu = migrate();
  EXPECT_EQ(without_criu.exit_code, 3);
  EXPECT_THAT(without_criu.err, HasSubstr("CRIU is not installed (looked for /nowhere/criu): install it, or name it with node.criu"));
  configure("a", "");

  configure("b", "[node]\ncriu = \"/nowhere/criu\"\n");
  expect_refused(3, "node b refuses: CRIU is not installed (looked for /nowhere/criu)");

  // Packets could not follow the workload: known before it has gone.
  configure("a", "[node]\nuplink = \"lo\"\n");
  expect_refused(3, std::string("lo is not the uplink that ") + kWorkload + " was started with");
  configure("a", "[node]\nuplink = \"\"\n");
  expect_refused(3, "node a has no uplink by which packets could be redirected: set node.uplink");
  configure("a", "");
  configure("b", "[node]\nuplink = \"\"\n");
  expect_refused(3, "node b refuses: node b has no uplink by which packets could be redirected");
  restart_b();

  ASSERT_TRUE(stop_agent(state_, "b"));
  expect_refused(3, "node b cannot be reached (");
  {
    NodeOfAnotherVersion other(names_.netns_path("b"), node_address("b") + ":" + std::to_string(kPeerPort));
    std::string version = std::to_string(wire::kVersionMax + 1);
    expect_refused(3, "mose: node b speaks protocol versions " + version + " to " + version + ", this node ");
  }

  // So slowly that its pager can be looked at.
  restart_b("store_bytes_max = \"256MiB\"");
  std::ofstream(root("a") + kCopied + "/file") << "of the workload\n";
  std::thread look([this] {
    EXPECT_TRUE(saw_program({"mose-pager", "--store-bytes-max", std::to_string(256u << 20)}, kCommandBound)) << "the pager was told no limit";
  });
  auto moved = migrate({"--max-bandwidth", "80mbit"});
  look.join();
  EXPECT_EQ(moved.exit_code, 0) << moved.err;
  EXPECT_THAT(mose("b", {"workloads"}).out, HasSubstr("running"));

  auto away = mose("a", {"stop", kWorkload});
  EXPECT_EQ(away.exit_code, 3) << away.out;
  EXPECT_THAT(away.err, HasSubstr("workload redis has moved to node b: stop it there; `mose cleanup` here removes what it has left"));
  EXPECT_THAT(mose("a", {"workloads"}).out, HasSubstr("away"));
  EXPECT_TRUE(answers()) << "it goes on at b";
  EXPECT_EQ(mose("b", {"stop", kWorkload}).exit_code, 0);
  EXPECT_THAT(mose("a", {"cleanup"}).out, HasSubstr("workload redis forgotten"));

  // What the one that has ended has left at b is not this one's.
  auto again = start_with_a_copy();
  ASSERT_EQ(again.exit_code, 0) << again.err;
  expect_refused(3, std::string(kCopied) + " holds files here that the copy of mount " + kTarget + " would replace");
  EXPECT_EQ(read_file(root("b") + kCopied + "/file").value_or(""), "of the workload\n");
  EXPECT_EQ(mose("a", {"stop", kWorkload}).exit_code, 0);
}

// A pipe to somebody who stays: one reason of those that inspect_test makes one by one, here up to the exit code.
TEST_F(Refusals, WhatTiesAWorkloadToItsNodeIsNamed) {
  const char* const kDirectory = "/srv/mose-tied";
  for (const char* node : kNodes) fs::create_directories(root(node) + kDirectory);
  ASSERT_EQ(::mkfifo((root("a") + kDirectory + "/fifo").c_str(), 0600), 0);
  auto place = open_node(state_, "a");
  ASSERT_TRUE(place) << place.error().what;
  ProgramSpec stays;
  stays.argv = {"bash", "-c", std::string("exec 3<>") + kDirectory + "/fifo; read -t 60 word <&3"};
  stays.place = &place->place;
  stays.cgroup = place->cgroup;
  std::thread holder([&] { EXPECT_TRUE(run_program(stays, "", 2 * kCommandBound)); });
  auto run = mose("a", {"run", "tied", "--address", "198.51.100.77/24", "--mount", std::string(kDirectory) + ":/mnt:copy", "--", "bash", "-c",
                        "exec 3<>/mnt/fifo; exec sleep 1000"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  auto refused = migrate({}, "tied");
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("/mnt/fifo, held by bash, pid "));
  EXPECT_THAT(mose("a", {"workloads"}).out, HasSubstr("tied"));
  std::ofstream(root("a") + kDirectory + "/fifo") << "go\n";
  holder.join();
  EXPECT_EQ(mose("a", {"stop", "tied", "--grace", "1ms"}).exit_code, 0);
}

TEST_F(Refusals, MoreThanTheFirstMessageHoldsIsNamedBeforeAnythingIsSent) {
  std::vector<std::string> words = {"run", "wordy", "--address", "198.51.100.78/24"};
  for (int i = 0; i < 400; ++i) {
    words.emplace_back("--env");
    words.push_back("V" + std::to_string(i) + "=" + std::string(2800, 'x'));
  }
  words.insert(words.end(), {"--", "sleep", "1000"});
  auto run = mose("a", words);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const char* sentence = " of them are its environment and command: start it with less of them";
  auto refused = migrate({}, "wordy");
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr(sentence));
  auto check = mose("a", {"check", "wordy", "--to", "b"});
  EXPECT_THAT(check.out + check.err, HasSubstr(sentence));
  EXPECT_THAT(mose("a", {"workloads"}).out, ::testing::ContainsRegex("wordy[^\n]*running"));
  EXPECT_EQ(mose("a", {"stop", "wordy", "--grace", "1ms"}).exit_code, 0);
}

// The same address has the same MAC, whoever uses it: the segment's answers do not tell.
TEST_F(Refusals, AnAddressOfAnotherWorkloadIsNotTakenFromIt) {
  ASSERT_TRUE(run_ip(names_.netns("sw"), "link set pb down\n"));  // or it would not have got it
  std::vector<std::string> words = {"run", "other", "--address", std::string(kServiceAddress) + "/" + kPrefixLength, "--"};
  for (const std::string& word : redis_command()) words.push_back(word);
  auto other = mose("b", words);
  ASSERT_TRUE(run_ip(names_.netns("sw"), "link set pb up\n"));
  ASSERT_EQ(other.exit_code, 0) << other.err;
  expect_refused(3, std::string("node b refuses: address ") + kServiceAddress + " is already used by workload other");
  EXPECT_THAT(mose("b", {"workloads"}).out, HasSubstr("running"));
}

// Its source still redirects for half a second what comes late, by the network that the new one would get.
TEST_F(Refusals, OneThatHasJustLeftCanBeStartedAgainAtOnce) {
  auto moved = migrate();
  ASSERT_EQ(moved.exit_code, 0) << moved.err;
  ASSERT_EQ(mose("b", {"stop", kWorkload, "--grace", "1ms"}).exit_code, 0);
  auto again = start_with_a_copy();
  EXPECT_EQ(again.exit_code, 0) << again.err;
  ::usleep(1'000'000);  // longer than the source lingers
  EXPECT_THAT(mose("a", {"workloads"}).out, HasSubstr("running"));
  EXPECT_TRUE(answers()) << "its network is still there";
  EXPECT_EQ(mose("a", {"stop", kWorkload}).exit_code, 0);
}

// An agent proves CRIU first; of b that is seen wherever its configuration changes here.
TEST_F(Refusals, AMoveWaitsForAgentsThatHaveJustBeenStarted) {
  const size_t before = read_file(names_.agent_log("a")).value_or("").size();
  for (const char* node : kNodes) configure(node, "");
  auto checked = mose("a", {"check", kWorkload, "--to", "b"});
  EXPECT_EQ(checked.exit_code, 0) << checked.out << checked.err;
  configure("a", "");
  auto moved = migrate();
  EXPECT_EQ(moved.exit_code, 0) << moved.err;
  EXPECT_THAT(read_file(names_.agent_log("a")).value_or("").substr(before), HasSubstr("CRIU is ready"));
  EXPECT_EQ(mose("b", {"stop", kWorkload}).exit_code, 0);
}

TEST_F(Refusals, ADebuggerThatComesDuringPreCopyEndsTheMigrationBeforeTheWorkloadStops) {
  {
    auto node = open_node(state_, "a");
    ASSERT_TRUE(node) << node.error().what;
    expect_debugger_seen(node->place.pid.get(), ") has begun to trace redis: detach it and migrate again");
  }
  expect_debugger_seen(-1, "a process outside of this agent's pid namespace has begun to trace redis (thread ");
  auto again = migrate();
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(mose("b", {"stop", kWorkload}).exit_code, 0);
}

}  // namespace
}  // namespace mose::lab
