// SPDX-License-Identifier: MIT
// What a node keeps for itself: a workload that runs as root in the node's own root reads neither its key nor its state, and sets nothing
// of its kernel, there and where it moves; and no other user of a node reads anything that a migration makes or leaves.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "live_lab.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kLab = "t-lab-secrets";
constexpr const char* kWorkload = "peek";
constexpr Nanoseconds kCriuBound = std::chrono::seconds(15);
constexpr uid_t kStranger = 65534;

// Tries for ever, as root, to read the keys, and to take away what hides them.
// Programs are started from subshells, which fork: a shell that is stopped while it starts one by vfork is in a sleep that CRIU
// cannot take it out of, and the dump is given up after its time.
constexpr const char* kScript =
    "while (exec sleep 0.1); do (exec cat /etc/mose/pki/* /var/lib/mose/history.jsonl 2>&1); (exec umount /etc/mose/pki 2>&1); echo looked; done";

// Opens for writing, without a word written, what root could set of a kernel that is not its own, and what a process has of itself; reads what
// servers read.
constexpr const char* kWriteScript =
    "while (exec sleep 0.1); do for f in sys/kernel/core_pattern sys/kernel/pid_max sys/vm/drop_caches sys/vm/overcommit_memory "
    "sys/net/core/somaxconn sysrq-trigger irq/default_smp_affinity bus/pci/00/00.0 acpi/wakeup mtrr self/oom_score_adj; do "
    "if (: >> /proc/$f) 2>/dev/null; then echo opened $f; fi; done; "
    "(: >> /proc/sys/kernel/core_pattern) 2>&1; (exec mount -o remount,rw /proc 2>&1); (exec mount -t proc proc /tmp 2>&1); "
    "if (: < /proc/kmsg) 2>/dev/null; then echo opened kmsg; fi; if (: < /proc/kcore) 2>/dev/null; then echo opened kcore; fi; "
    "echo read $(cat /proc/sys/net/core/somaxconn /proc/sys/vm/overcommit_memory 2>&1); echo looked; done";
constexpr const char* kOpenScript = "while (exec sleep 0.1); do (: >> /proc/sys/kernel/core_pattern) && echo opened core_pattern; echo looked; done";

class Secrets : public LiveLab {
 protected:
  Secrets() : LiveLab(kLab) {}
  void SetUp() override { ASSERT_NO_FATAL_FAILURE(make_lab()); }

  lab::ProgramResult start_peeking(std::vector<std::string> options, const char* script = kScript) {
    std::vector<std::string> words = {"/usr/bin/mose", "run", kWorkload, "--address", std::string(lab::kServiceAddress) + "/" + lab::kPrefixLength};
    words.insert(words.end(), options.begin(), options.end());
    words.insert(words.end(), {"--", "/bin/sh", "-c", script});
    return run("a", words);
  }
  void migrate(const std::string& from, const std::string& to, std::vector<std::string> options = {}) {
    std::vector<std::string> words = {"/usr/bin/mose", "migrate", kWorkload, "--to", to, "--json"};
    words.insert(words.end(), options.begin(), options.end());
    auto result = run(from, words);
    report_ = nlohmann::json::parse(result.out, nullptr, false);
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }
  // From a to b.
  std::string refusal_of_move() {
    auto result = run("a", {"/usr/bin/mose", "migrate", kWorkload, "--to", "b"});
    EXPECT_EQ(result.exit_code, 3) << result.err;
    return result.err;
  }
  [[nodiscard]] std::string workload_log(const std::string& node) const {
    return read_file(root(node) + "/var/lib/mose/workloads/" + kWorkload + "/log/stdout.log").value_or("");
  }
  [[nodiscard]] std::optional<ProcessHandle> a_process(const std::string& node) const {
    auto cgroup = Cgroup::open(state_.cgroup + "/" + node + "/workloads/" + kWorkload);
    auto pids = cgroup ? cgroup->procs() : Result<std::vector<pid_t>>(std::unexpected(cgroup.error()));
    if (!pids) return std::nullopt;
    for (pid_t pid : *pids) {
      if (auto process = ProcessHandle::open(pid)) return std::move(*process);
    }
    return std::nullopt;
  }
  [[nodiscard]] uint64_t bound_of(const std::string& node) const {
    auto process = a_process(node);
    return process ? std::strtoull(status_field(*process, "CapBnd").value_or("0").c_str(), nullptr, 16) : 0;
  }

  // What it says from now on in three looks: the first may have begun elsewhere.
  std::string said_now(const std::string& node) {
    const size_t seen = workload_log(node).size();
    std::string said;
    auto looks = [&] {
      size_t count = 0;
      for (size_t at = 0; (at = said.find("looked\n", at)) != std::string::npos; ++at) ++count;
      return count;
    };
    for (int i = 0; i < 500 && looks() < 3; ++i, ::usleep(10'000)) {
      const std::string text = workload_log(node);
      said = text.substr(std::min(seen, text.size()));
    }
    EXPECT_GE(looks(), 3u) << "at " << node << ": " << said;
    return said;
  }
  void expect_nothing_set(const std::string& node) {
    const std::string said = said_now(node);
    EXPECT_THAT(said, ::testing::Not(HasSubstr("opened"))) << "at " << node;
    EXPECT_THAT(said, HasSubstr("core_pattern: Read-only file system")) << "at " << node;
    EXPECT_THAT(said, ::testing::ContainsRegex("read [0-9]+ [012]\n")) << "at " << node;
  }
  void expect_nothing_shown(const std::string& node) {
    const std::string said = said_now(node);
    EXPECT_THAT(said, HasSubstr("must be superuser to unmount")) << "at " << node;
    EXPECT_THAT(said, ::testing::Not(HasSubstr("PRIVATE KEY"))) << "at " << node;
    EXPECT_THAT(said, ::testing::Not(HasSubstr("migration_id"))) << "at " << node;
    auto process = a_process(node);
    ASSERT_TRUE(process);
    const std::string inside = "/proc/" + std::to_string(process->pid()) + "/root";
    for (const char* hidden : {"/etc/mose/pki", "/var/lib/mose"}) {
      EXPECT_FALSE(fs::is_empty(root(node) + hidden)) << node << hidden;
      EXPECT_TRUE(fs::is_empty(inside + hidden)) << node << hidden;
    }
    EXPECT_EQ(bound_of(node) & (1ull << CAP_SYS_ADMIN | 1ull << CAP_DAC_READ_SEARCH | 1ull << CAP_MKNOD | 1ull << CAP_SYS_MODULE), 0u);
    EXPECT_NE(bound_of(node) & 1ull << CAP_SETUID, 0u);
  }

  nlohmann::json report_;  // of the last move
};

TEST_F(Secrets, AWorkloadReadsNothingOfItsNodeHereAndThere) {
  auto shown = start_peeking({"--mount", "/etc:/mnt:identical:ro"});
  EXPECT_EQ(shown.exit_code, 3);
  EXPECT_THAT(shown.err, HasSubstr("shows the workload this node's key"));

  auto started = start_peeking({});
  ASSERT_EQ(started.exit_code, 0) << started.err;
  expect_nothing_shown("a");
  ASSERT_NO_FATAL_FAILURE(migrate("a", "b"));
  expect_nothing_shown("b");
  ASSERT_NO_FATAL_FAILURE(migrate("b", "a", {"--standby", "never"}));
  expect_nothing_shown("a");
}

// What hides the key of a hides nothing of b, whose key lies elsewhere.
TEST_F(Secrets, ANodeTakesNoWorkloadThatWouldSeeItsKey) {
  auto started = start_peeking({});
  ASSERT_EQ(started.exit_code, 0) << started.err;
  fs::create_directories(root("b") + "/srv");
  fs::rename(root("b") + "/etc/mose/pki", root("b") + "/srv/keys");
  fs::create_symlink("/srv/keys", root("b") + "/etc/mose/pki");
  EXPECT_THAT(refusal_of_move(), HasSubstr("would see here what is this node's alone, /srv/keys"));
  expect_nothing_shown("a");
}

TEST_F(Secrets, ANodeTakesNoWorkloadThatWouldHaveItsDisks) {
  auto started = start_peeking({});
  ASSERT_EQ(started.exit_code, 0) << started.err;
  ASSERT_EQ(::mknod((root("b") + "/dev/disk").c_str(), S_IFBLK | 0600, makedev(254, 99)), 0);
  EXPECT_THAT(refusal_of_move(), HasSubstr("would be given /dev/disk (block 254:99)"));
}

TEST_F(Secrets, RootOfTheNodeIsAChoiceThatMovesAsWell) {
  auto started = start_peeking({"--all-capabilities"});
  ASSERT_EQ(started.exit_code, 0) << started.err;
  const uint64_t all = bound_of("a");
  EXPECT_NE(all & 1ull << CAP_SYS_ADMIN, 0u);
  ASSERT_NO_FATAL_FAILURE(migrate("a", "b"));
  EXPECT_EQ(bound_of("b"), all);
}

TEST_F(Secrets, AWorkloadSetsNothingOfTheKernelHereAndThereAndBack) {
  auto started = start_peeking({}, kWriteScript);
  ASSERT_EQ(started.exit_code, 0) << started.err;
  expect_nothing_set("a");
  ASSERT_NO_FATAL_FAILURE(migrate("a", "b"));
  expect_nothing_set("b");
  ASSERT_NO_FATAL_FAILURE(migrate("b", "a", {"--standby", "never"}));
  expect_nothing_set("a");
  ASSERT_NO_FATAL_FAILURE(migrate("a", "b"));
  expect_nothing_set("b");
}

// A process that does nothing keeps its standby, so that its mounts are those of the early dump.
TEST_F(Secrets, TheKernelsFilesCanNotBeWrittenInAStandbyThatIsTaken) {
  auto started = start_peeking({}, "exec sleep 1000");
  ASSERT_EQ(started.exit_code, 0) << started.err;
  auto expect_read_only = [&](const char* node) {
    auto process = a_process(node);
    ASSERT_TRUE(process);
    const std::string inside = "/proc/" + std::to_string(process->pid()) + "/root/proc/";
    for (const char* file : {"sys/kernel/core_pattern", "sys/vm/drop_caches", "irq/default_smp_affinity"}) {
      ASSERT_EQ(::access((inside + file).c_str(), F_OK), 0) << node << ": " << file;
      auto opened = open_file(inside + file, O_WRONLY);
      ASSERT_FALSE(opened) << node << ": " << file;
      EXPECT_EQ(opened.error().code, EROFS) << node << ": " << file;
    }
  };
  expect_read_only("a");
  for (auto [from, to] : {std::pair{"a", "b"}, std::pair{"b", "a"}}) {
    ASSERT_NO_FATAL_FAILURE(migrate(from, to));
    EXPECT_EQ(report_["standby"]["used"], true) << report_["standby"];
    expect_read_only(to);
  }
}

// As it was for every workload before: what it was started with is what it has where it comes.
TEST_F(Secrets, WhoIsRootOfTheNodeSetsItsKernelThereAsWell) {
  auto started = start_peeking({"--all-capabilities"}, kOpenScript);
  ASSERT_EQ(started.exit_code, 0) << started.err;
  EXPECT_THAT(said_now("a"), HasSubstr("opened core_pattern"));
  ASSERT_NO_FATAL_FAILURE(migrate("a", "b"));
  EXPECT_THAT(said_now("b"), HasSubstr("opened core_pattern"));
}

// ---- What stays in memory.

// In any memory of a process that it can write to.
bool holds(pid_t pid, std::string_view text) {
  const Fd memory = std::move(open_file("/proc/" + std::to_string(pid) + "/mem", O_RDONLY).value());
  std::istringstream maps(read_file("/proc/" + std::to_string(pid) + "/maps").value_or(""));
  for (std::string line; std::getline(maps, line);) {
    uint64_t from = 0, to = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, mode) != 3 || mode[1] != 'w' || to - from > (256u << 20)) continue;
    std::string bytes(to - from, '\0');
    const ssize_t got = ::pread(memory.get(), bytes.data(), bytes.size(), static_cast<off_t>(from));
    if (got > 0 && std::string_view(bytes).substr(0, static_cast<size_t>(got)).find(text) != std::string::npos) return true;
  }
  return false;
}

// The agent works with its key; the file's text it has read, and wiped.
TEST_F(Secrets, TheTextOfTheKeyIsWiped) {
  auto started = start_peeking({});
  ASSERT_EQ(started.exit_code, 0) << started.err;
  ASSERT_NO_FATAL_FAILURE(migrate("a", "b"));
  for (const char* node : lab::kNodes) {
    const std::string pem = read_file(root(node) + "/etc/mose/pki/" + node + ".key").value_or("");
    const size_t second = pem.find('\n', pem.find('\n') + 1);
    const std::string line = pem.substr(pem.find('\n') + 1, second - pem.find('\n') - 1);
    ASSERT_GT(line.size(), 40u);
    EXPECT_FALSE(holds(state_.agents.at(node).pid, line)) << node;
    EXPECT_TRUE(holds(state_.agents.at(node).pid, std::string(node) + ".key")) << "its name, which it knows, was not found either";
    EXPECT_TRUE(holds(::getpid(), line)) << "a text that is there was not found";
  }
}

// ---- Other users of a node.

// What nothing comes of is not open: the memory of a process that has just ended, for one.
bool opens(const std::string& place) {
  const Fd file(::open(place.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  char byte;
  return file.valid() && ::read(file.get(), &byte, 1) != 0;
}

bool connects(const std::string& place) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (!place.ends_with(".sock") || place.size() >= sizeof address.sun_path) return false;
  place.copy(address.sun_path, place.size());
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

// What of `places` another user can read, list or connect to.
std::vector<std::string> readable_by_stranger(const std::string& root, const std::vector<std::string>& places) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const bool ready = ::chroot(root.c_str()) == 0 && ::chdir("/") == 0 && ::setresgid(kStranger, kStranger, kStranger) == 0 &&
                       ::setresuid(kStranger, kStranger, kStranger) == 0;
    auto tell = [&](const std::string& line) {
      if (::write(ends[1], (line + "\n").c_str(), line.size() + 1) < 0) ::_exit(2);
    };
    if (!ready) tell("it could not become another user");
    for (const std::string& place : places) {
      if (opens(place) || connects(place)) tell(place);
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  const Fd reader(ends[0]);
  std::string text = read_all(reader.get(), 1u << 20).value_or("the other user's answer cannot be read\n");
  ::waitpid(child, nullptr, 0);
  std::vector<std::string> out;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) out.push_back(text.substr(at, end - at));
  return out;
}

// Everything below these directories of a node, as the node names it.
std::vector<std::string> all_below(const std::string& root, const std::vector<std::string>& directories) {
  std::vector<std::string> out;
  for (const std::string& directory : directories) {
    out.push_back(directory);
    std::error_code error;
    for (auto it = fs::recursive_directory_iterator(root + directory, error); it != fs::recursive_directory_iterator(); it.increment(error))
      out.push_back(it->path().string().substr(root.size()));
  }
  return out;
}

// Memory, descriptors and arguments' environment of the agents and their helpers.
std::vector<std::string> of_processes(const std::string& root, std::vector<std::string>& programs) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root + "/proc", error)) {
    auto name = read_file(entry.path().string() + "/comm");
    if (!name || !name->starts_with("mose")) continue;
    programs.push_back(name->substr(0, name->find('\n')));
    const std::string own = "/proc/" + entry.path().filename().string();
    for (const char* file : {"/mem", "/maps", "/environ", "/fd", "/map_files", "/pagemap"}) out.push_back(own + file);
  }
  return out;
}

// A process that has memory, so that a slow move of it can be looked at.
constexpr const char* kLarge = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); while sleep 0.1; do echo ${#x}; done";

TEST_F(Secrets, NoOtherUserReadsWhatAMigrationMakesOrLeaves) {
  auto started = start_peeking({}, kLarge);
  ASSERT_EQ(started.exit_code, 0) << started.err;
  // What an agent tries CRIU with at its start, a program of MOSE's and a word of it, is no migration's.
  for (const char* node : lab::kNodes) {
    for (const Timestamp deadline = now() + kCriuBound; read_file(names_.agent_log(node)).value_or("").find("CRIU is ready") == std::string::npos;
         ::usleep(20'000))
      ASSERT_LT(now(), deadline) << node;
  }
  const std::vector<std::string> ours = {"/etc/mose/pki", "/var/lib/mose", "/run/mose"};
  std::set<std::string> programs, files;
  auto look = [&](const std::string& when) {
    for (const char* node : lab::kNodes) {
      std::vector<std::string> names;
      std::vector<std::string> places = all_below(root(node), ours);
      for (const std::string& place : places) files.insert(fs::path(place).filename().string());
      // The mode alone, too: what lies in a closed directory today may be moved.
      for (const std::string& place : places) {
        struct stat info {};
        if (::lstat((root(node) + place).c_str(), &info) != 0) continue;
        EXPECT_EQ(info.st_uid, 0u) << when << ", node " << node << ": " << place;
        const bool sees_out = place.find("/workloads/") != std::string::npos && place.find("/log") != std::string::npos;  // the workload's own
        if (sees_out || S_ISLNK(info.st_mode) || S_ISDIR(info.st_mode)) continue;
        EXPECT_EQ(info.st_mode & 077, 0u) << when << ", node " << node << ": " << place;
      }
      for (std::string& place : of_processes(root(node), names)) places.push_back(std::move(place));
      programs.insert(names.begin(), names.end());
      auto readable = readable_by_stranger(root(node), places);
      // The names of certificates are no secret; what is in them is closed.
      std::erase(readable, "/etc/mose/pki");
      EXPECT_THAT(readable, ::testing::IsEmpty()) << when << ", node " << node;
    }
  };
  look("before");
  // Each of its phases for long enough: a thin link.
  std::jthread mover([&] { migrate("a", "b", {"--strategy", "postcopy", "--standby", "never", "--max-bandwidth", "40mbit"}); });
  for (int i = 0; i < 400 && !programs.contains("mose-guardian"); ++i, ::usleep(5'000)) look("while it moves");
  for (int i = 0; i < 40; ++i, ::usleep(50'000)) look("while it moves");
  mover.join();
  look("after");
  for (const char* program : {"mosed", "mose-pager", "mose-guardian", "mose-holder"}) EXPECT_TRUE(programs.contains(program)) << program;
  for (const char* file : {"a.key", "b.key", "history.jsonl", "mosed.sock", "pager.sock", "images", "core-2.img", "inventory.img"})
    EXPECT_TRUE(files.contains(file)) << file << " was never there to be looked at: " << ::testing::PrintToString(files);
}

}  // namespace
}  // namespace mose::test
