// SPDX-License-Identifier: MIT
// A live Redis goes from node to node and back, hundreds of times (thousands with --soak) and by every strategy in turn, between
// nodes with certificates and under a load whose every answer is checked. No move may fail, no acknowledged write may be
// lost, and nothing may grow with the number of moves.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "client/commands.h"
#include "gauges.h"
#include "lab/agent.h"
#include "lab/inventory.h"
#include "lab/load_process.h"
#include "live_lab.h"
#include "support/support.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kRing = "t-ring";
// By turns: five strategies and two directions, so that each goes both ways.
constexpr std::array kStrategies = {"auto", "precopy", "postcopy", "hybrid", "cold"};
constexpr size_t kMovesSample = 6, kMovesFull = 200, kMovesSoak = 5000;
constexpr size_t kWarmMoves = 20;
// Reports grow an agent by design until its history is full: here before the warm-up ends, and a bound that does not
// hold is growth.
constexpr size_t kHistoryMax = 8;
constexpr uint32_t kRate = 2000;
constexpr Nanoseconds kReadyBound = std::chrono::seconds(15);
constexpr Nanoseconds kGoneBound = std::chrono::seconds(10);
constexpr useconds_t kBetweenUs = 200'000, kPollUs = 100'000;
constexpr size_t kLogShown = 4000;

size_t moves_wanted() {
  if (const char* text = std::getenv("MOSE_RING_MOVES")) {
    const int wanted = std::atoi(text);
    EXPECT_GT(wanted, 0) << "MOSE_RING_MOVES is \"" << text << "\"";
    return static_cast<size_t>(std::max(wanted, 1));
  }
  return test::in_soak() ? kMovesSoak : test::in_full() ? kMovesFull : kMovesSample;
}

std::string peer_of(const std::string& node) { return node == "a" ? "b" : "a"; }

// Medians and worst of what moves by one strategy have cost.
class Tally {
 public:
  void add(const std::string& strategy, double downtime_ms, double gap_ms) {
    downtimes_[strategy].push_back(downtime_ms);
    gaps_[strategy].push_back(gap_ms);
  }
  void print() {
    for (auto& [strategy, downtimes] : downtimes_) {
      auto& gaps = gaps_[strategy];
      std::sort(downtimes.begin(), downtimes.end());
      std::sort(gaps.begin(), gaps.end());
      std::printf("| %-8s | %4zu moves | downtime median %.1f ms, max %.1f | longest without any answer median %.1f ms, max %.1f |\n",
                  strategy.c_str(), downtimes.size(), downtimes[downtimes.size() / 2], downtimes.back(), gaps[gaps.size() / 2], gaps.back());
    }
  }

 private:
  std::map<std::string, std::vector<double>> downtimes_, gaps_;
};

class Ring : public test::LiveLab {
 protected:
  Ring() : LiveLab(kRing) {}

  Status make_ring() {
    LabOptions options;
    options.lab = kRing;
    options.agents = false;  // not before their history has its bound
    MOSE_ASSIGN(state_, up(options));
    for (const char* node : kNodes) {
      const std::string conf = names_.node_root(node) + "/etc/mose/conf.d/50-history.toml";
      std::filesystem::create_directories(std::filesystem::path(conf).parent_path());
      MOSE_ASSIGN(Fd file, open_file(conf, O_WRONLY | O_CREAT | O_TRUNC, 0644));
      MOSE_TRY(write_all(file.get(), "[limits]\nhistory_max = " + std::to_string(kHistoryMax) + "\n"));
      MOSE_ASSIGN(state_.agents[node], start_agent(names_, state_, node));
      MOSE_TRY(save_state(names_, state_));
    }
    MOSE_ASSIGN(before_, settled_inventory(state_));
    return {};
  }

  Status start_service() {
    auto started = start_redis();
    if (started.exit_code != 0) return fail("mose run: " + started.err);
    LoadRequest request;
    request.server = kServiceAddress;
    request.megabytes = 16;
    request.connections = 8;
    request.rate = kRate;
    request.mix = "set:50";
    MOSE_ASSIGN(auto load, LoadProcess::start(names_, request));
    load_.emplace(std::move(load));
    MOSE_TRY(load_->prepare());
    return load_->resume();
  }

  // The report of a move that is complete.
  Result<Json> migrate(const std::string& strategy) {
    const std::string to = peer_of(node_);
    for (const Timestamp deadline = now() + kReadyBound;; ::usleep(kPollUs)) {
      auto result = mose(node_, {"migrate", kWorkload, "--to", to, "--strategy", strategy, "--json"});
      // An agent that has just started proves its CRIU first.
      if (result.exit_code != 0 && result.err.find("being prepared") != std::string::npos && now() < deadline) continue;
      Json report = Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
      if (result.exit_code != 0 || !report.is_object() || report["outcome"] != "complete") return fail(result.err + result.out);
      if (!report["tls"].is_object()) return fail("it went in plain text: " + result.out);
      node_ = to;
      return report;
    }
  }

  // A move, with what the client went through.
  Status move_once(const std::string& strategy) {
    MOSE_TRY(load_->begin_window());
    MOSE_ASSIGN(Json report, migrate(strategy));
    ::usleep(kBetweenUs);
    MOSE_ASSIGN(auto figures, load_->end_window());
    const client::Counts& c = figures.counts;
    if (c.errors + c.resets + c.lost + c.duplicated + c.reordered != 0 || !figures.all_answered) {
      return fail("the client saw " + client::to_json(figures) + " in " + report.dump());
    }
    MOSE_ASSIGN(auto data, load_->verify());
    if (!data.verified) return fail("the data: " + data.problem + ", " + std::to_string(data.lost) + " lost, in " + report.dump());
    answers_ += figures.answers;
    tally_.add(strategy, report["downtime_ms"].get<double>(), figures.interruption_any_ms.value_or(0));
    return {};
  }

  // What is on the nodes now; each is compared with itself with the workload, or without it.
  Status look() {
    MOSE_ASSIGN(auto nodes, test::read_nodes(state_));
    for (auto& [node, gauges] : nodes) {
      // A gauge that shows nothing would never show growth.
      for (const char* thing : {"mosed resident bytes", "mosed descriptors", "mosed threads", "mosed mappings", "of kind file", "/var/lib/mose bytes"}) {
        if (gauges[thing] <= 0) return fail(std::string("nothing was read of ") + thing + " at node " + node);
      }
      growth_.add(node + (node == node_ ? ", with the workload" : ", without it"), std::move(gauges));
    }
    MOSE_ASSIGN(auto kernel, test::read_kernel(state_));
    if (kernel) growth_.add("kernel", std::move(*kernel));
    kernel_unseen_ += kernel ? 0 : 1;
    return {};
  }

  void judge_growth(size_t moves) {
    // Every second reading is of the same place; of the kernel every one.
    auto all = growth_.judge(kWarmMoves / 2);
    if (moves < kWarmMoves + 4 * test::GrowthLog::kWindow) std::printf("so few moves say little about growth\n");
    if (!all.empty()) std::printf("%s", test::growth_table(all).c_str());
    if (kernel_unseen_ > 0) std::printf("the kernel's BPF objects were left out %zu times: others ran agents on this machine\n", kernel_unseen_);
    for (const test::Growth& growth : all) EXPECT_FALSE(growth.grows()) << "it grows: " << test::to_string(growth);
  }

  // The service ends; what is then on the nodes and was not there before it.
  void judge_leftovers() {
    load_.reset();
    auto stopped = mose(node_, {"stop", kWorkload});
    EXPECT_EQ(stopped.exit_code, 0) << stopped.err;
    Inventory found;
    for (const Timestamp deadline = now() + kGoneBound;; ::usleep(kPollUs)) {
      auto after = take_inventory(state_);
      ASSERT_TRUE(after) << after.error().what;
      found = additions(before_, *after);
      if (is_clean(found) || now() >= deadline) break;
    }
    EXPECT_TRUE(is_clean(found)) << leftovers_json(found).dump(1);
    for (const char* node : kNodes) {
      auto history = read_file(names_.node_root(node) + "/var/lib/mose/history.jsonl");
      ASSERT_TRUE(history) << history.error().what;
      EXPECT_LE(std::count(history->begin(), history->end(), '\n'), static_cast<ptrdiff_t>(kHistoryMax)) << "of node " << node;
    }
  }

  [[nodiscard]] std::string logs() const {
    std::string out;
    for (const char* node : kNodes) {
      const std::string text = read_file(names_.agent_log(node)).value_or("");
      out += std::string("-- mosed ") + node + "\n" + text.substr(text.size() - std::min(text.size(), kLogShown)) + "\n";
    }
    return out;
  }

  Inventory before_;
  std::optional<LoadProcess> load_;
  std::string node_ = "a";
  uint64_t answers_ = 0;
  size_t kernel_unseen_ = 0;
  test::GrowthLog growth_;
  Tally tally_;
};

TEST_F(Ring, EveryMoveWorksAndNothingGrows) {
  auto made = make_ring();
  ASSERT_TRUE(made) << made.error().what;
  auto started = start_service();
  ASSERT_TRUE(started) << started.error().what << "\n" << logs();
  const size_t moves = moves_wanted();
  for (size_t i = 0; i < moves; ++i) {
    const std::string strategy = kStrategies[i % kStrategies.size()], from = node_;
    auto moved = move_once(strategy);
    ASSERT_TRUE(moved) << "move " << i + 1 << " of " << moves << ", " << strategy << " from " << from << ": " << moved.error().what << "\n" << logs();
    auto looked = look();
    ASSERT_TRUE(looked) << looked.error().what;
  }
  tally_.print();
  std::printf("| ring | %zu moves | %llu answers, each checked | 0 wrong |\n", moves, static_cast<unsigned long long>(answers_));
  judge_growth(moves);
  judge_leftovers();
}

}  // namespace
}  // namespace mose::lab
