// SPDX-License-Identifier: MIT
// The memory checker moved between two nodes while it writes, back and forth, with each way to find written pages: no
// page may be stale, foreign, lost or torn afterwards, and no writer may have gone back.
//
// Three moves with each, a hundred with MOSE_FULL=1 (tools/check --full), or as many as MOSE_MEMORY_MOVES says.
// MOSE_MEMORY_CHECKER: more words for the checker's command line, to compare kinds of memory
// ("--only shared --pages 65536"); each move's downtime is printed.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <sstream>
#include <tuple>

#include "checker_client.h"
#include "kernel/cgroup.h"
#include "kernel/netns.h"
#include "kernel/probe.h"
#include "kernel/process.h"
#include "kernel/spawn.h"
#include "kernel/system_v.h"
#include "lab/agent.h"
#include "live_lab.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kLab = "t-memory";
constexpr const char* kWorkload = "checker";
constexpr const char* kProgram = "/usr/bin/memory-checker";
constexpr const char* kDataDirectory = "/srv/memory";  // at both nodes; the workload sees it as /mnt
constexpr uint16_t kPort = 7070;
constexpr Nanoseconds kCommandBound = std::chrono::minutes(2);
constexpr unsigned kMovesDefault = 3, kMovesFull = 100;
// What cannot be moved, and is rested around a move; and what changes the shape of the tree, which no standby survives.
constexpr const char* kRings = "ring,ring-fixed";
constexpr const char* kShapes = "ring,ring-fixed,fork,remap,advise";

unsigned moves_wanted() {
  const char* text = std::getenv("MOSE_MEMORY_MOVES");
  if (text != nullptr) return static_cast<unsigned>(std::atoi(text));
  return std::getenv("MOSE_FULL") == nullptr ? kMovesDefault : kMovesFull;
}

std::string more_words() {
  const char* text = std::getenv("MOSE_MEMORY_CHECKER");
  return text == nullptr ? "" : text;
}

class MemoryMoves : public LiveLab, public ::testing::WithParamInterface<const char*> {
 protected:
  MemoryMoves() : LiveLab(kLab, kCommandBound) {}

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(make_lab());
    auto program = helper_path("memory-checker");
    ASSERT_TRUE(program) << program.error().what;
    for (const char* node : lab::kNodes) {
      std::error_code error;
      fs::copy_file(*program, root(node) + kProgram, error);
      ASSERT_FALSE(error) << error.message();
      fs::create_directories(root(node) + kDataDirectory);
      auto made = run(node, {kProgram, "--make-data", std::string(kDataDirectory) + "/data"});
      ASSERT_EQ(made.exit_code, 0) << made.err;
    }
    std::vector<std::string> words = {"/usr/bin/mose",
                                      "run",
                                      kWorkload,
                                      "--address",
                                      std::string(lab::kServiceAddress) + "/" + lab::kPrefixLength,
                                      "--mount",
                                      std::string(kDataDirectory) + ":/mnt:identical:ro",
                                      "--",
                                      kProgram,
                                      "--listen",
                                      std::to_string(kPort),
                                      "--data",
                                      "/mnt/data"};
    std::istringstream more(more_words());
    for (std::string word; more >> word;) words.push_back(word);
    auto started = run("a", words);
    ASSERT_EQ(started.exit_code, 0) << started.err;
    connect();
  }


  lab::ProgramResult migrate(const std::vector<std::string>& options) {
    std::vector<std::string> words = {"/usr/bin/mose", "migrate",   kWorkload,  "--to",
                                      peer(),          "--tracker", GetParam(), "--json"};
    words.insert(words.end(), options.begin(), options.end());
    return run(node_, words);
  }
  static bool by_protection() { return std::string(GetParam()).starts_with("wp"); }
  [[nodiscard]] std::string peer() const { return node_ == "a" ? "b" : "a"; }

  // The one connection through which the checker is asked: it moves as well.
  void connect() {
    auto netns = open_file(names_.netns_path("client"), O_RDONLY);
    ASSERT_TRUE(netns);
    Fd socket;
    Status made = fail("not tried");
    for (int i = 0; i < 500 && !made; ++i) {
      if (i > 0) ::usleep(20'000);
      made = in_netns(netns->get(), [&]() -> Status {
        socket = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(kPort)};
        inet_pton(AF_INET, lab::kServiceAddress, &to.sin_addr);
        if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return fail_errno("connect");
        return {};
      });
    }
    ASSERT_TRUE(made) << made.error().what;
    client_.emplace(std::move(socket));
  }
  Json ask(const std::string& request) {
    auto answer = client_->ask(request);
    EXPECT_TRUE(answer) << answer.error().what;
    return answer ? *answer : Json{{"kinds", Json::object()}};
  }
  [[nodiscard]] std::string log() const {
    std::string text;
    for (const char* node : lab::kNodes) {
      auto result = read_file(root(node) + "/var/lib/mose/workloads/" + kWorkload + "/log/stdout.log");
      text += std::string("-- log of the checker at ") + node + "\n" +
              result.value_or(result ? "" : result.error().what + "\n");
      constexpr size_t kShown = 8000;
      auto agent = read_file(names_.agent_log(node), 64u << 20);
      text += std::string("-- log of the agent at ") + node + "\n" +
              (agent ? agent->substr(agent->size() - std::min(agent->size(), kShown)) : agent.error().what) + "\n";
    }
    return text;
  }

  // The System V segments of the checker, as its ipc namespace tells them: id, bytes, mappings, removed.
  [[nodiscard]] std::vector<std::tuple<int, uint64_t, uint64_t, bool>> segments() const {
    auto cgroup = Cgroup::open(state_.cgroup + "/" + node_ + "/workloads/" + kWorkload);
    auto pids = cgroup ? cgroup->procs() : Result<std::vector<pid_t>>(std::unexpected(cgroup.error()));
    if (!pids || pids->empty()) return {};
    auto process = ProcessHandle::open(pids->front());
    auto ipc = process ? open_namespace(*process, NamespaceKind::ipc) : Result<Fd>(std::unexpected(process.error()));
    auto objects = ipc ? system_v_objects(ipc->get()) : Result<SystemVObjects>(std::unexpected(ipc.error()));
    EXPECT_TRUE(objects) << objects.error().what;
    std::vector<std::tuple<int, uint64_t, uint64_t, bool>> out;
    if (!objects) return out;
    for (const auto& s : objects->segments) out.emplace_back(s.id, s.bytes, s.attached, s.removed);
    return out;
  }

  // One move and everything that must hold after it.
  void move(unsigned number) {
    // Every other time the tree keeps its shape: most of these use the standby. A checker with kinds of one's own choice
    // rests nothing that can be moved.
    const std::string rested = number % 2 == 0 || !more_words().empty() ? kRings : kShapes;
    const Json before = ask("rest " + rested);
    const auto segments_before = segments();
    if (more_words().empty()) {
      EXPECT_EQ(segments_before.size(), 2u);
    }
    auto moved = migrate({});
    ASSERT_EQ(moved.exit_code, 0) << "move " << number << ": " << moved.err << moved.out << log();
    const Json report = Json::parse(moved.out, nullptr, false);
    ASSERT_TRUE(report.is_object());
    node_ = peer();
    EXPECT_EQ(segments(), segments_before);
    const Json after = ask("verify");
    ASSERT_EQ(after["bad"], 0) << "move " << number << ": " << bad_pages(after) << "\n"
                               << report.dump() << "\n"
                               << log();
    for (const auto& [kind, counts] : before["kinds"].items()) {
      EXPECT_GE(after["kinds"][kind]["steps"], counts["steps"]) << kind << " has gone back";
    }
    EXPECT_EQ(report["tracking"]["source"], by_protection() ? "write-protection" : "hash-scan") << report["tracking"];
    EXPECT_THAT(report["tracking"]["reason"].get<std::string>(),
                ::testing::StartsWith(std::string("asked for ") + GetParam() + "; "));
    if (!more_words().empty())
      std::printf("downtime %s ms, standby %s, phases %s, tracking %s\n", report["downtime_ms"].dump().c_str(),
                  report["standby"].dump().c_str(), report["phases_ms"].dump().c_str(), report["tracking"].dump().c_str());
    standbys_ += report["standby"]["used"] == true ? 1 : 0;
    pages_after_ += report["lazy"]["pages"].get<uint64_t>();
    // Every writer goes on, and what it writes is right.
    const Json resumed = ask("work");
    auto stepped = client_->wait_for_steps(resumed, 50);
    ASSERT_TRUE(stepped) << stepped.error().what << "\n" << log();
    const Json end = ask("verify");
    ASSERT_EQ(end["bad"], 0) << "after move " << number << ": " << bad_pages(end) << "\n" << log();
    checks_ = 0;
    for (const auto& [kind, counts] : end["kinds"].items()) checks_ += counts["checks"].get<uint64_t>();
  }

  std::string node_ = "a";
  std::optional<CheckerClient> client_;
  unsigned standbys_ = 0;
  uint64_t pages_after_ = 0, checks_ = 0;
};

TEST_P(MemoryMoves, LeaveNoPageStaleForeignLostOrTorn) {
  if (by_protection() && probe("uffd-wp-async").state != ProbeState::yes) {
    EXPECT_EQ(migrate({}).exit_code, 3);
    return;
  }
  const Json begin = ask("verify");
  ASSERT_EQ(begin["bad"], 0) << log();
  if (more_words().empty()) {
    auto refused = migrate({});  // with its rings open
    EXPECT_EQ(refused.exit_code, 3) << refused.out;
    EXPECT_THAT(refused.err, HasSubstr("io_uring"));
  }
  const unsigned moves = moves_wanted();
  for (unsigned number = 0; number < moves; ++number) {
    move(number);
    if (HasFatalFailure()) return;
  }
  std::printf("%s: %u moves, %u by a standby, %lu pages sent after the freeze, %lu pages looked at\n", GetParam(),
              moves, standbys_, pages_after_, checks_);
}
INSTANTIATE_TEST_SUITE_P(Trackers, MemoryMoves, ::testing::Values("wp", "wp-early", "hash"), [](const auto& tracker) {
  std::string name = tracker.param;
  std::erase(name, '-');
  return name;
});

}  // namespace
}  // namespace mose::test
