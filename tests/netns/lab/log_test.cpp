// SPDX-License-Identifier: MIT
// What both nodes log while a workload moves: each line of it names the migration, whichever thread, lane or process has written it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernel/process.h"
#include "live_lab.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;
constexpr const char* kLab = "t-lab-log";
constexpr Nanoseconds kReadyBound = std::chrono::seconds(60);

class Logged : public test::LiveLab {
 protected:
  Logged() : LiveLab(kLab) {}

  // Two agents that log all that they can, and a Redis on a.
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(make_lab());
    for (const char* node : kNodes) {
      std::filesystem::create_directories(root(node) + "/etc/mose/conf.d");
      std::ofstream(root(node) + "/etc/mose/conf.d/log.toml") << "[log]\nlevel = \"debug\"\n";
      seen_[node] = agent_log(node).size();
      auto again = restart_agent(names_, state_, node);
      ASSERT_TRUE(again) << again.error().what;
    }
    for (const char* node : kNodes) ASSERT_TRUE(wait_until([&] { return agent_log(node).find("CRIU is ready", seen_[node]) != std::string::npos; })) << agent_log(node);
    auto started = start_redis();
    ASSERT_EQ(started.exit_code, 0) << started.err << agent_log("a");
    for (const char* node : kNodes) seen_[node] = agent_log(node).size();
  }

  template <typename Condition>
  static bool wait_until(Condition condition) {
    for (const Timestamp deadline = now() + kReadyBound; now() < deadline; ::usleep(20'000)) {
      if (condition()) return true;
    }
    return condition();
  }
  bool idle(const std::string& node) {
    return wait_until([&] { return mose(node, {"status"}).out.find("no migration is under way") != std::string::npos; });
  }
  static std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  // Nothing else happens here: from the first line of a migration to its last all are its own.
  void expect_all_of(const std::string& node, const std::string& id) {
    const std::vector<std::string> lines = lines_of(agent_log(node).substr(seen_[node]));
    auto of_it = [&](const std::string& line) { return line.find(" migration=" + id) != std::string::npos; };
    const auto first = std::ranges::find_if(lines, of_it);
    const auto last = std::ranges::find_if(lines.rbegin(), lines.rend(), of_it).base();
    ASSERT_NE(first, lines.end()) << node;
    EXPECT_GE(last - first, 2) << node;
    for (auto line = first; line != last; ++line) EXPECT_TRUE(of_it(*line)) << node << ": " << *line;
    // And before and behind them nothing that speaks of the workload, which does nothing but move.
    for (auto line = lines.begin(); line != lines.end(); ++line) {
      if (line < first || line >= last) {
        EXPECT_THAT(*line, testing::Not(HasSubstr("redis"))) << node;
      }
    }
    seen_[node] = agent_log(node).size();
  }

  std::map<std::string, size_t> seen_;
};

TEST_F(Logged, EveryLineOfAMoveNamesItOnBothNodes) {
  auto moved = mose("a", {"migrate", "redis", "--to", "b", "--json"});
  ASSERT_EQ(moved.exit_code, 0) << moved.err << moved.out;
  const std::string id = Json::parse(moved.out, nullptr, false)["migration_id"];
  for (const char* node : kNodes) ASSERT_TRUE(idle(node));
  for (const char* node : kNodes) expect_all_of(node, id);
}

// With a pager, whose log is its own, an agent that dies under it, and the one that ends it.
TEST_F(Logged, EveryLineOfOneThatIsInterruptedNamesIt) {
  ASSERT_EQ(mose("a", {"migrate", "redis", "--to", "b", "--strategy", "precopy", "--max-bandwidth", "1mbit", "--detach"}).exit_code, 0);
  std::string id;
  ASSERT_TRUE(wait_until([&] {
    Json status = Json::parse(mose("a", {"status", "--json"}).out, nullptr, false);
    if (!status.is_object() || status["migrations"].empty() || status["migrations"][0]["phase"] != "precopy") return false;
    id = status["migrations"][0]["migration_id"];
    return true;
  })) << mose("a", {"status", "--json"}).out;
  for (const std::string& line : lines_of(read_file(root("b") + "/run/mose/migrations/" + id + "/pager.log").value_or("none was found")))
    EXPECT_THAT(line, HasSubstr(" migration=" + id));
  auto agent = open_record(state_.agents.at("a"));
  ASSERT_TRUE(agent && agent->signal(SIGKILL) && agent->wait_ended(kReadyBound));
  auto again = restart_agent(names_, state_, "a");
  ASSERT_TRUE(again) << again.error().what;
  for (const char* node : kNodes) ASSERT_TRUE(idle(node));
  size_t spoken_of = 0;
  for (const std::string& line : lines_of(agent_log("a").substr(seen_["a"]))) {
    const bool of_it = line.find("interrupted") != std::string::npos || line.find("moving") != std::string::npos || line.find("stays here") != std::string::npos;
    spoken_of += of_it;
    if (of_it) {
      EXPECT_THAT(line, HasSubstr(" migration=" + id));
    }
  }
  EXPECT_GE(spoken_of, 2u) << agent_log("a");
  expect_all_of("b", id);
}

}  // namespace
}  // namespace mose::lab
