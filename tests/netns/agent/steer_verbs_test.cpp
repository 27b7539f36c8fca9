// SPDX-License-Identifier: MIT
// `mose steer` on the real agent: what it says is what happens to packets of a real service, and it can be undone.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/fd.h"
#include "bed.h"
#include "handover/hold_queue.h"
#include "handover/steering.h"
#include "older.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using handover::Direction;
using handover::Steering;
using handover::SteerState;
using nlohmann::json;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr const char* kAddress = "192.0.2.10";
constexpr const char* kSource = "192.0.2.1:40000";
constexpr const char* kService = "192.0.2.10:6379";

class SteerVerbs : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    bed = new AgentBed("steer-verbs");
    bed->start_agent();
    auto run = bed->mose({"run", "redis", "--address", "192.0.2.10/24", "--root", bed->root(), "--", "redis-server", "--save", "",
                          "--protected-mode", "no"});
    ASSERT_EQ(run.exit_code, 0) << run.error;
  }
  static void TearDownTestSuite() {
    (void)bed->mose({"stop", "redis", "--grace", "200ms"});
    bed->terminate_agent();
    delete bed;
    bed = nullptr;
  }
  static json answer(std::vector<std::string> arguments) {
    arguments.emplace_back("--json");
    auto output = bed->mose(arguments);
    EXPECT_EQ(output.exit_code, 0) << output.error;
    return json::parse(output.out, nullptr, false);
  }
  static json explain() { return answer({"steer", "explain", "tcp", kSource, kService}); }
  // As a fault of an agent would leave it.
  static void leave_closed() {
    auto steering = Steering::adopt("/sys/fs/bpf", "redis");
    ASSERT_TRUE(steering) << steering.error().what;
    for (auto direction : {Direction::ingress, Direction::egress}) {
      auto set = steering->set_state(direction, SteerState::shut);
      ASSERT_TRUE(set) << set.error().what;
    }
  }

  static AgentBed* bed;
};
AgentBed* SteerVerbs::bed = nullptr;

TEST_F(SteerVerbs, ShowNamesStatesAndCountsByReason) {
  EXPECT_TRUE(redis_answers(kAddress));
  json services = answer({"steer", "show"});
  ASSERT_EQ(services.size(), 1u);
  EXPECT_EQ(services[0]["service"], kAddress);
  EXPECT_EQ(services[0]["workload"], "redis");
  for (const char* direction : {"ingress", "egress"}) {
    EXPECT_EQ(services[0][direction]["state"], "pass");
    EXPECT_GT(services[0][direction]["of_workload"]["frames"]["passed"].get<int>(), 0);
    EXPECT_FALSE(services[0][direction]["frames"].contains("taken")) << "only the uplink's program takes frames";
    EXPECT_EQ(services[0][direction]["waiting"], 0);
    EXPECT_TRUE(services[0][direction]["expires_in_ms"].is_null());
  }
  auto text = bed->mose({"steer", "show", "redis"});
  EXPECT_EQ(text.exit_code, 0) << text.error;
  EXPECT_THAT(text.out, HasSubstr("REDIRECTED"));
  EXPECT_THAT(text.out, HasSubstr("192.0.2.10"));
  EXPECT_THAT(text.out, ContainsRegex("redis ingress: passed [0-9]+"));
}

// One state and one queue for both addresses, counters for each.
TEST_F(SteerVerbs, WhatIsHeldForOneAddressDoesNotShowAtTheOther) {
  auto run = bed->mose({"run", "pair", "--address", "192.0.2.20/24", "--address", "2001:db8::20/64", "--root", bed->root(), "--",
                        "redis-server", "--save", "", "--protected-mode", "no"});
  ASSERT_EQ(run.exit_code, 0) << run.error;
  EXPECT_TRUE(redis_answers("192.0.2.20"));
  {
    auto steering = Steering::adopt("/sys/fs/bpf", "pair");
    ASSERT_TRUE(steering) << steering.error().what;
    auto queue = handover::HoldQueue::create(*steering, Direction::ingress);
    ASSERT_TRUE(queue) << queue.error().what;
    handover::SteerPolicy policy = *steering->policy(Direction::ingress);
    policy.state = SteerState::hold;
    policy.tap_ifindex = queue->tap_ifindex();
    ASSERT_TRUE(steering->set(Direction::ingress, policy));
    EXPECT_FALSE(redis_answers("192.0.2.20", 300ms));
    json services = answer({"steer", "show", "pair"});
    ASSERT_EQ(services.size(), 2u) << services;
    const auto held = [&](size_t i) { return services[i]["ingress"]["frames"]["held"].get<int>(); };
    EXPECT_EQ(services[0]["service"], "192.0.2.20");
    EXPECT_GT(held(0), 0);
    EXPECT_EQ(services[1]["service"], "2001:db8::20");
    EXPECT_EQ(held(1), 0);
    for (const json& service : services) {
      EXPECT_GE(service["ingress"]["of_workload"]["waiting"].get<int>(), held(0));
      EXPECT_GE(service["ingress"]["of_workload"]["frames"]["held"].get<int>(), held(0));
    }
    const std::string text = bed->mose({"steer", "show", "pair"}).out;
    EXPECT_THAT(text, ContainsRegex("\\(all\\) +pair +ingress +hold +[0-9.]+ ms +- +[1-9][0-9]* "));
    EXPECT_THAT(text, ContainsRegex("192.0.2.20 +pair +ingress +hold +- +- +- +[0-9]+ +[1-9][0-9]* "));
    EXPECT_THAT(text, ContainsRegex("2001:db8::20 +pair +ingress +hold +- +- +- +0 +0 "));
    EXPECT_THAT(bed->mose({"steer", "explain", "tcp", "192.0.2.1:40000", "192.0.2.20:6379"}).out,
                HasSubstr("no migration is left that would decide, `mose steer release pair` ends it"));

    // A drain that nobody pumps.
    ASSERT_TRUE(steering->set_state(Direction::ingress, SteerState::drain));
    EXPECT_THAT(bed->mose({"steer", "explain", "tcp", "192.0.2.1:40000", "192.0.2.20:6379"}).out,
                HasSubstr("for what came before it, then the state is pass"));

    auto released = bed->mose({"steer", "release", "pair"});
    EXPECT_EQ(released.exit_code, 0) << released.error;
    EXPECT_THAT(released.out, ContainsRegex("pair is in service: ingress was drain, egress was pass; [1-9][0-9]* frames that "
                                            "waited and that nobody could put back are lost"));
    EXPECT_EQ(steering->queued_now(Direction::ingress).value_or(1), 0u);
  }
  EXPECT_TRUE(redis_answers("192.0.2.20"));
  EXPECT_EQ(bed->mose({"stop", "pair", "--grace", "200ms"}).exit_code, 0);
}

// Steering of another build, at work while this one's agent runs.
TEST_F(SteerVerbs, WhatCannotBeAskedIsShownAsUnknown) {
  make_steering_older("/sys/fs/bpf", "redis");
  for (const char* asked : {"redis", kAddress}) {
    json services = answer({"steer", "show", asked});
    ASSERT_EQ(services.size(), 1u) << services;
    EXPECT_EQ(services[0]["service"], kAddress);
    EXPECT_EQ(services[0]["state"], "unknown");
    EXPECT_EQ(services[0]["ingress"]["state"], "unknown");
    EXPECT_THAT(services[0]["reason"].get<std::string>(), HasSubstr("version"));
  }
  EXPECT_THAT(bed->mose({"steer", "show"}).out, HasSubstr("redis cannot be asked: "));
  EXPECT_THAT(bed->mose({"steer", "explain", "tcp", kSource, kService}).error, HasSubstr("cannot be asked"));
  EXPECT_THAT(bed->mose({"status"}).out, HasSubstr("what becomes of packets of redis here is not known ("));
  json closed = answer({"status"})["closed"];
  ASSERT_EQ(closed.size(), 1u) << closed;
  EXPECT_EQ(closed[0]["ingress"], "unknown");
  EXPECT_THAT(closed[0]["reason"].get<std::string>(), HasSubstr("version"));
  bed->terminate_agent();
  bed->start_agent();
  EXPECT_EQ(answer({"steer", "show"})[0]["ingress"]["state"], "pass");
  EXPECT_EQ(bed->mose({"status"}).out, "no migration is under way\n");
}

TEST_F(SteerVerbs, WhatWasLeftClosedIsShownExplainedAndReleased) {
  EXPECT_EQ(explain()["verdict"], "pass");
  leave_closed();
  EXPECT_FALSE(redis_answers(kAddress, 300ms));
  json seen = explain();
  EXPECT_EQ(seen["verdict"], "drop");
  EXPECT_EQ(seen["reason"], "drop-shut");
  EXPECT_EQ(seen["state"], "shut");
  EXPECT_EQ(seen["direction"], "ingress");
  EXPECT_TRUE(seen["same_programs"].get<bool>());
  json shown = answer({"steer", "show"})[0]["ingress"];
  EXPECT_EQ(shown["state"], "shut");
  EXPECT_GE(shown["since_ms"].get<double>(), 300);
  const json met = shown["of_workload"]["met"];
  ASSERT_TRUE(met.contains("shut")) << shown;
  EXPECT_LE(met["shut"]["last_ms"].get<double>(), met["shut"]["first_ms"].get<double>());
  EXPECT_LE(met["shut"]["first_ms"].get<double>(), shown["since_ms"].get<double>() + 50);
  EXPECT_GE(met["pass"]["last_ms"].get<double>(), met["shut"]["first_ms"].get<double>()) << "nothing passes any more";
  EXPECT_THAT(bed->mose({"steer", "show"}).out, HasSubstr("SINCE"));
  auto text = bed->mose({"steer", "explain", "tcp", kSource, kService, "syn"});
  EXPECT_THAT(text.out, HasSubstr("is dropped in the state shut"));
  EXPECT_THAT(text.out, HasSubstr("`mose steer release redis` ends it"));
  EXPECT_EQ(seen["at"], "tc");
  EXPECT_EQ(seen["unclaimed"], true);

  auto status = bed->mose({"status"});
  EXPECT_EQ(status.exit_code, 0) << status.error;
  EXPECT_THAT(status.out,
              MatchesRegex("no migration is under way\npackets of redis wait or are dropped here for [0-9.]+ s "
                           "\\(ingress shut, egress shut\\): no migration will open it, `mose steer release redis` "
                           "does\n"));
  json closed = answer({"status"})["closed"];
  ASSERT_EQ(closed.size(), 1u) << closed;
  EXPECT_EQ(closed[0]["workload"], "redis");
  EXPECT_EQ(closed[0]["ingress"], "shut");
  EXPECT_GE(closed[0]["since_ms"], 300);
  EXPECT_TRUE(closed[0]["expires_in_ms"].is_null());
  EXPECT_EQ(closed[0]["unclaimed"], true);

  auto released = bed->mose({"steer", "release", kAddress});
  EXPECT_EQ(released.exit_code, 0) << released.error;
  EXPECT_THAT(released.out, HasSubstr("redis is in service: ingress was shut, egress was shut"));
  EXPECT_TRUE(redis_answers(kAddress));
  EXPECT_EQ(explain()["verdict"], "pass");
  EXPECT_EQ(bed->mose({"status"}).out, "no migration is under way\n");
}

TEST_F(SteerVerbs, AHoldThatNobodyEndsIsShownWithItsEnd) {
  auto steering = Steering::adopt("/sys/fs/bpf", "redis");
  ASSERT_TRUE(steering) << steering.error().what;
  auto queue = handover::HoldQueue::create(*steering, Direction::ingress);
  ASSERT_TRUE(queue) << queue.error().what;
  handover::SteerPolicy policy = *steering->policy(Direction::ingress);
  policy.state = SteerState::hold_new;
  policy.tap_ifindex = queue->tap_ifindex();
  policy.deadline = now() + 60s;
  ASSERT_TRUE(steering->set(Direction::ingress, policy));
  EXPECT_THAT(bed->mose({"status"}).out,
              ContainsRegex("packets of redis wait or are dropped here for [0-9.]+ s \\(ingress "
                            "hold-new, egress pass\\): ends by itself in [0-9.]+ s, no migration"));
  // The programs end it at its time, and it is shown no longer.
  policy.deadline = now();
  ASSERT_TRUE(steering->set(Direction::ingress, policy));
  EXPECT_TRUE(redis_answers(kAddress));
  json shown = answer({"steer", "show"})[0]["ingress"];
  EXPECT_EQ(shown["state"], "pass");
  EXPECT_EQ(shown["expired"], "hold-new");
  EXPECT_EQ(bed->mose({"status"}).out, "no migration is under way\n");
  ASSERT_TRUE(steering->set_state(Direction::ingress, SteerState::pass));
}

// One request after the other on one connection, and what TCP itself saw of it.
class Requests {
 public:
  explicit Requests(const char* host) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(6379)};
    inet_pton(AF_INET, host, &to.sin_addr);
    timeval patience{.tv_sec = 5};
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    EXPECT_EQ(connect(socket_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    thread_ = std::thread([this] {
      char answer[16];
      while (!stop_ && write_all(socket_.get(), "PING\r\n") && recv(socket_.get(), answer, sizeof answer, 0) == 7)
        ++answered_;
      ok_ = stop_.load();
    });
  }
  ~Requests() { stop(); }
  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] uint64_t answered() const { return answered_; }
  [[nodiscard]] bool ok() const { return ok_; }  // after stop()
  [[nodiscard]] unsigned retransmitted() const {
    tcp_info info{};
    socklen_t size = sizeof info;
    EXPECT_EQ(getsockopt(socket_.get(), IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return info.tcpi_total_retrans;
  }

 private:
  Fd socket_;
  std::atomic<bool> stop_{false}, ok_{false};
  std::atomic<uint64_t> answered_{0};
  std::thread thread_;
};

TEST_F(SteerVerbs, AnAgentOfAnOlderBuildIsFollowedUnderTraffic) {
  Requests requests(kAddress);
  for (bool killed : {true, false}) {
    killed ? bed->kill_agent() : bed->terminate_agent();
    make_steering_older("/sys/fs/bpf", "redis");
    EXPECT_FALSE(Steering::adopt("/sys/fs/bpf", "redis").has_value());
    bed->start_agent();
    EXPECT_TRUE(Steering::adopt("/sys/fs/bpf", "redis").has_value());
    EXPECT_THAT(bed->agent_log(), HasSubstr("the steering programs were replaced"));
    uint64_t before = requests.answered();
    EXPECT_TRUE(redis_answers(kAddress));
    for (int wait = 0; wait < 2000 && requests.answered() == before; ++wait) std::this_thread::sleep_for(1ms);
    EXPECT_GT(requests.answered(), before);
  }
  requests.stop();
  EXPECT_TRUE(requests.ok());
  EXPECT_EQ(requests.retransmitted(), 0u) << "a packet was lost";
  EXPECT_TRUE(explain()["same_programs"].get<bool>());
}

TEST_F(SteerVerbs, ExplainKnowsBothDirections) {
  EXPECT_EQ(answer({"steer", "explain", "tcp", kService, kSource})["direction"], "egress");
  EXPECT_EQ(answer({"steer", "explain", "icmp", "192.0.2.1", kAddress})["direction"], "ingress");
}

}  // namespace
}  // namespace mose::test
