// SPDX-License-Identifier: MIT
// What becomes of stock CRIU's lazy pages where after_commit_test.cpp breaks ours: its daemon at the destination, its page server at
// the source, both, or the link for five seconds. It finds out and writes down; that a workload dies or answers wrongly is a
// result here, not a failure. MOSE_FULL=1 build/bin/stock_lazy_test
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>

#include "lab/lab.h"
#include "lab/load_process.h"
#include "lab/stock_end.h"
#include "lab/topology.h"
#include "support/support.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStockLab = "t-stock";
constexpr double kMegabytes = 96;
constexpr double kRateMbit = 200, kRttMs = 1;  // of the link, so that the memory takes some four seconds
constexpr double kWindowMs = 3000;  // of which the moment is drawn, from when the workload runs at the destination
constexpr unsigned kMoments = 5, kDrawsMax = 8;
constexpr Nanoseconds kCutFor = std::chrono::seconds(5);
constexpr Nanoseconds kWatched = std::chrono::seconds(10);  // after the part broke, or was back
constexpr int kLockSeconds = 60;

enum class Hit : uint8_t { daemon, page_server, both, link, stranger };
const char* name_of(Hit hit) {
  switch (hit) {
    case Hit::daemon: return "Daemon";
    case Hit::page_server: return "PageServer";
    case Hit::both: return "Both";
    case Hit::link: return "Link";
    case Hit::stranger: return "Stranger";  // see StockStranger
  }
  return "";
}
struct Case {
  Hit hit;
  unsigned number;
};
std::ostream& operator<<(std::ostream& out, const Case& one) { return out << name_of(one.hit) << one.number; }

std::vector<Case> cases() {
  std::vector<Case> out;
  if (!in_full()) return out;
  for (Hit hit : {Hit::daemon, Hit::page_server, Hit::both, Hit::link}) {
    for (unsigned i = 0; i < kMoments; ++i) out.push_back({hit, i});
  }
  return out;
}

std::vector<std::string>& found() {
  static std::vector<std::string> all;
  return all;
}

class Findings : public ::testing::Environment {
 public:
  void TearDown() override {
    if (found().empty()) return static_cast<void>(std::printf("nothing is tried without MOSE_FULL=1 (it takes five minutes)\n"));
    std::printf("\nstock CRIU, lazy pages\n%-13s %6s %8s %6s %7s %11s  %s\n", "hit", "at ms", "answers", "wrong", "resets", "unanswered", "the workload");
    for (const std::string& line : found()) std::printf("%s\n", line.c_str());
  }
};
[[maybe_unused]] const auto* const kFindings = ::testing::AddGlobalTestEnvironment(new Findings);

// Processes of a node by the beginning of their name.
std::vector<pid_t> processes(const lab::LabState& state, const std::string& node, const std::string& name) {
  std::vector<pid_t> out;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(state.cgroup + "/" + node, error); !error && it != fs::end(it); it.increment(error)) {
    if (it->path().filename() != "cgroup.procs") continue;
    std::istringstream pids(read_file(it->path().string()).value_or(""));
    for (std::string pid; pids >> pid;) {
      if (read_file("/proc/" + pid + "/comm").value_or("").starts_with(name)) out.push_back(std::atoi(pid.c_str()));
    }
  }
  return out;
}

class StockLazy : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) skip_process("a lab needs root");
    auto lock = lab::LabLock::acquire(names_, kLockSeconds);
    ASSERT_TRUE(lock) << lock.error().what;
    lock_.emplace(std::move(*lock));
  }
  void TearDown() override { take_down(); }

  void take_down() {
    load_.reset();
    ends_.clear();
    if (lock_) (void)lab::down(names_);
  }

  void step(const std::string& node, const std::string& words) {
    auto done = ends_.at(node).call(words);
    ASSERT_TRUE(done) << node << ": " << words << ": " << done.error().what;
  }

  // A Redis under load, moved lazily; it runs at b when this returns, and its memory is on the way.
  void move() {
    dump();
    if (HasFatalFailure()) return;
    step("b", "restore-lazily " + lab::node_address("a"));
    step("b", "activate");
  }

  // As far as that the destination has the images, and the source's page server waits for it.
  void dump() {
    ASSERT_TRUE(lab::down(names_));
    lab::LabOptions options;
    options.lab = kStockLab;
    options.agents = false;
    options.link_rate_mbit = kRateMbit;
    options.link_rtt_ms = kRttMs;
    auto state = lab::up(options);
    ASSERT_TRUE(state) << state.error().what;
    state_ = std::move(*state);
    for (const char* node : lab::kNodes) {
      auto end = lab::StockEnd::start(state_, node);
      ASSERT_TRUE(end) << end.error().what;
      ends_.emplace(node, std::move(*end));
    }
    step("a", "prepare " + lab::node_address("b"));
    step("a", "launch");
    lab::LoadRequest load;
    load.server = lab::kStockAddress;
    load.megabytes = kMegabytes;
    load.connections = 4;
    load.probes = 2;
    auto process = lab::LoadProcess::start(names_, load);
    ASSERT_TRUE(process) << process.error().what;
    load_.emplace(std::move(*process));
    ASSERT_TRUE(load_->prepare());
    ASSERT_TRUE(load_->resume());
    ::usleep(500'000);
    ASSERT_TRUE(load_->begin_window());
    step("b", "prepare " + lab::node_address("a"));
    ASSERT_TRUE(ends_.at("b").request("receive"));
    step("a", "dump-lazily");
    step("a", "send " + lab::node_address("b"));
    auto received = ends_.at("b").answer();
    ASSERT_TRUE(received) << received.error().what;
  }

  void set_link(bool up) { ASSERT_TRUE(lab::run_ip(names_.netns("sw"), std::string("link set dev pa ") + (up ? "up\n" : "down\n"))); }
  void kill_criu(const std::string& node) {
    for (pid_t pid : processes(state_, node, "criu")) (void)::kill(pid, SIGKILL);
  }

  void strike(Hit hit) {
    if (hit == Hit::daemon || hit == Hit::both) kill_criu("b");
    if (hit == Hit::page_server || hit == Hit::both) kill_criu("a");
    if (hit != Hit::link) return;
    set_link(false);
    std::this_thread::sleep_for(kCutFor);
    set_link(true);
  }

  // Nothing: it lives.
  std::optional<double> watch(Timestamp struck, const std::string& node = "b") {
    for (Timestamp end = now() + kWatched; now() < end; ::usleep(5000)) {
      if (processes(state_, node, "redis-server").empty()) return to_ms(now() - struck);
    }
    return std::nullopt;
  }
  // What became of it.
  std::string verdict(const client::Figures& figures, std::optional<double> died_ms) {
    if (died_ms) return "has died " + std::to_string(static_cast<int>(*died_ms)) + " ms after it";
    if (!figures.all_answered) return "answers no more";
    auto read = load_->verify();
    if (!read) return "goes on, and could not be read back: " + read.error().what;
    return read->verified ? "goes on, its data are right" : "goes on with wrong data: " + std::to_string(read->lost) + " of " +
                                                                std::to_string(read->checked) + " keys, first " + read->problem;
  }

  lab::Names names_{kStockLab};
  std::optional<lab::LabLock> lock_;
  lab::LabState state_;
  std::map<std::string, lab::StockEnd> ends_;
  std::optional<lab::LoadProcess> load_;
};

TEST_P(StockLazy, IsBrokenAndLookedAt) {
  std::mt19937_64 random(100 * static_cast<uint64_t>(GetParam().hit) + GetParam().number);
  std::uniform_real_distribution<double> moment(0, kWindowMs);
  for (unsigned draw = 0; draw < kDrawsMax; ++draw) {
    move();
    if (HasFatalFailure()) return;
    const double at_ms = moment(random);
    ::usleep(static_cast<useconds_t>(at_ms * 1000));
    // They end when all of the memory is over.
    if (processes(state_, "b", "criu").empty() || processes(state_, "a", "criu").empty()) {
      take_down();
      continue;
    }
    const Timestamp struck = now();
    strike(GetParam().hit);
    if (HasFatalFailure()) return;
    auto died_ms = watch(struck);
    auto figures = load_->end_window();
    ASSERT_TRUE(figures) << figures.error().what;
    const client::Counts& counts = figures->counts;
    const uint64_t wrong = counts.lost + counts.duplicated + counts.reordered + counts.impossible;
    char line[512];
    std::snprintf(line, sizeof line, "%-13s %6.0f %8llu %6llu %7llu %11llu  %s", ::testing::PrintToString(GetParam()).c_str(), at_ms,
                  static_cast<unsigned long long>(figures->answers), static_cast<unsigned long long>(wrong),
                  static_cast<unsigned long long>(counts.resets), static_cast<unsigned long long>(counts.errors - counts.resets - counts.impossible),
                  verdict(*figures, died_ms).c_str());
    found().emplace_back(line);
    std::printf("%s\n", line);
    return;
  }
  found().push_back(::testing::PrintToString(GetParam()) + "  was over before each of its moments");
}

// Somebody connects to the page server and hangs up, before the destination has come.
class StockStranger : public StockLazy {};

TEST_P(StockStranger, ConnectsAndHangsUp) {
  dump();
  if (HasFatalFailure()) return;
  ASSERT_FALSE(processes(state_, "a", "redis-server").empty());
  auto place = lab::Place::of_netns(names_.netns_path("client"));
  ASSERT_TRUE(place) << place.error().what;
  lab::ProgramSpec stranger;
  stranger.argv = {"bash", "-c", std::string("exec 3<>/dev/tcp/") + lab::node_address("a") + "/" + lab::kStockPagePort};
  stranger.place = &*place;
  const Timestamp struck = now();
  auto connected = lab::run_program(stranger, "", std::chrono::seconds(10));
  ASSERT_TRUE(connected) << connected.error().what;
  ASSERT_EQ(connected->exit_code, 0) << connected->err;
  auto died_ms = watch(struck, "a");
  const std::string line = "Stranger      the source's workload " +
                           (died_ms ? "has been ended " + std::to_string(static_cast<int>(*died_ms)) + " ms after it, and none runs" : std::string("is still there"));
  found().push_back(line);
  std::printf("%s\n", line.c_str());
}

std::vector<Case> strangers() { return in_full() ? std::vector<Case>{{Hit::stranger, 0}} : std::vector<Case>{}; }
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StockStranger);
INSTANTIATE_TEST_SUITE_P(All, StockStranger, ::testing::ValuesIn(strangers()), [](const auto& one) { return ::testing::PrintToString(one.param); });

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StockLazy);
INSTANTIATE_TEST_SUITE_P(All, StockLazy, ::testing::ValuesIn(cases()), [](const auto& one) { return ::testing::PrintToString(one.param); });

}  // namespace
}  // namespace mose::test
