// SPDX-License-Identifier: MIT
// A live Redis moves between nodes that know each other by certificates, back and forth, pager and all; and once more while
// strangers keep the ports of both nodes busy.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/socket.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "bed.h"
#include "kernel/netns.h"
#include "kernel/socket.h"
#include "lab/names.h"
#include "scenario_report.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;
constexpr const char* kLab = "t-lab-tls";

CommandLine small_run(uint32_t repeat) {
  CommandLine line;
  line.lab = kLab;
  line.tls = true;
  line.megabytes = 48;
  line.connections = 3;
  line.repeat = repeat;
  return line;
}

// Opens connections to a node and says nothing on them, 1000 at most at a time, from the client's place.
class Strangers {
 public:
  explicit Strangers(const std::string& node) {
    thread_ = std::jthread([this, node](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        auto netns = open_file("/run/netns/" + Names(kLab).netns("client"), O_RDONLY);
        if (!netns || ::setns(netns->get(), CLONE_NEWNET) != 0) {
          std::this_thread::sleep_for(50ms);  // the lab is not there yet
          continue;
        }
        flood(stop, node_address(node) + ":" + std::to_string(kPeerPort));
      }
    });
  }
  [[nodiscard]] int opened() const { return opened_; }

 private:
  void flood(const std::stop_token& stop, const std::string& endpoint) {
    constexpr size_t kAtOnce = 1000;
    std::vector<Fd> held;
    while (!stop.stop_requested()) {
      auto socket = tcp_connect(endpoint, 200ms);
      if (!socket) {
        std::this_thread::sleep_for(50ms);
        continue;
      }
      const char half[] = "\x16\x03\x01\x02\x00\x01";
      (void)!::send(socket->get(), half, sizeof half - 1, MSG_NOSIGNAL);
      ++opened_;
      if (held.size() == kAtOnce) held.clear();
      held.push_back(std::move(*socket));
      std::this_thread::sleep_for(2ms);
    }
  }
  std::atomic<int> opened_{0};
  std::jthread thread_;
};

TEST(Tls, CarriesAMoveBackAndForth) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  Json report = test::report_of(small_run(2));
  ASSERT_EQ(report["runs"].size(), 2u);
  EXPECT_EQ(report["tls"], true);
  for (const Json& run : report["runs"]) {
    EXPECT_EQ(run["client"]["errors"], 0);
    EXPECT_EQ(run["tls"]["version"], "TLSv1.3");
    EXPECT_EQ(run["tls"]["peer"], run["destination_node"]) << run["tls"];
    EXPECT_THAT(run["tls"]["cipher"].get<std::string>(), ::testing::StartsWith("TLS_"));
    EXPECT_GE(run["precopy"]["rounds"], 2) << "the pager's streams";
  }
  EXPECT_THAT(test::traces(kLab), ::testing::IsEmpty());
}

TEST(Tls, AMoveIsNotDisturbedByStrangersAtBothPorts) {
  Fd turn = test::take_turn(kLab);
  test::need_criu_and_redis();
  Strangers at_a("a"), at_b("b");
  Json report = test::report_of(small_run(2));
  ASSERT_EQ(report["runs"].size(), 2u);
  EXPECT_GT(at_a.opened(), 1000);
  EXPECT_GT(at_b.opened(), 1000);
  for (const Json& run : report["runs"]) {
    EXPECT_EQ(run["outcome"], "complete");
    EXPECT_EQ(run["client"]["errors"], 0);
    EXPECT_EQ(run["client"]["lost"], 0);
  }
  for (const Json& agent : report["agents"]) {
    if (agent["program"] != "mosed") continue;
    EXPECT_LT(agent["last"]["resident_bytes"], 200u << 20) << agent;
  }
}

}  // namespace
}  // namespace mose::lab
