// SPDX-License-Identifier: MIT
// `mose steer` on the real agent: what it says is what happens to packets of a real service, and it can be undone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bed.h"
#include "handover/steering.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using testing::HasSubstr;
using handover::Direction;
using handover::SteerState;
using handover::Steering;

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
    EXPECT_GT(services[0][direction]["frames"]["passed"].get<int>(), 0);
    EXPECT_EQ(services[0][direction]["waiting"], 0);
    EXPECT_TRUE(services[0][direction]["expires_in_ms"].is_null());
  }
  auto text = bed->mose({"steer", "show", "redis"});
  EXPECT_EQ(text.exit_code, 0) << text.error;
  EXPECT_THAT(text.out, HasSubstr("REDIRECTED"));
  EXPECT_THAT(text.out, HasSubstr("192.0.2.10"));
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
  EXPECT_EQ(answer({"steer", "show"})[0]["ingress"]["state"], "shut");
  auto text = bed->mose({"steer", "explain", "tcp", kSource, kService, "syn"});
  EXPECT_THAT(text.out, HasSubstr("is dropped in the state shut"));

  auto released = bed->mose({"steer", "release", kAddress});
  EXPECT_EQ(released.exit_code, 0) << released.error;
  EXPECT_THAT(released.out, HasSubstr("redis is in service: ingress was shut, egress was shut"));
  EXPECT_TRUE(redis_answers(kAddress));
  EXPECT_EQ(explain()["verdict"], "pass");
}

TEST_F(SteerVerbs, ExplainKnowsBothDirections) {
  EXPECT_EQ(answer({"steer", "explain", "tcp", kService, kSource})["direction"], "egress");
  EXPECT_EQ(answer({"steer", "explain", "icmp", "192.0.2.1", kAddress})["direction"], "ingress");
}

}  // namespace
}  // namespace mose::test
