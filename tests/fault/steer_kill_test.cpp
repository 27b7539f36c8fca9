// SPDX-License-Identifier: MIT
// kill -9 of an agent in each state of steering, on a real lab under load, and what becomes of the packets while nobody
// is there: an expiry does what the phase says, what must stay closed does, and the next agent goes on with every
// packet.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "faults.h"
#include "handover/steering.h"
#include "kernel/procfs.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using handover::Direction;
using handover::Steering;
using handover::SteerPolicy;
using handover::SteerState;
using testing::HasSubstr;
using testing::Not;
using wire::FrameType;

constexpr Nanoseconds kHoldNewMax = 5s;  // docs/steering.md
constexpr Nanoseconds kDead = 1s;        // how long nobody is there
constexpr double kGapOfARunningServiceMs = 250;

class AgentDies : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto bed = FaultBed::up();
    ASSERT_TRUE(bed) << bed.error().what;
    bed_ = std::move(*bed);
    source_ = "a";
  }
  static void TearDownTestSuite() { bed_.reset(); }

  void SetUp() override {
    ASSERT_NE(bed_, nullptr);
    begin();
  }

  void begin() {
    destination_ = peer_of(source_);
    bed_->clear_plans();
    bed_->mark_logs();
    ASSERT_TRUE(bed_->load().begin_window());
  }

  // The programs themselves, whether an agent is there or not.
  [[nodiscard]] static Result<Steering> steering(const std::string& node) {
    return Steering::adopt(bed_->root(node) + "/sys/fs/bpf", kWorkload);
  }
  [[nodiscard]] static SteerPolicy policy(const std::string& node, Direction direction) {
    auto found = steering(node);
    EXPECT_TRUE(found) << found.error().what;
    auto policy = found ? found->policy(direction) : Result<SteerPolicy>(SteerPolicy{});
    EXPECT_TRUE(policy) << policy.error().what;
    return policy.value_or(SteerPolicy{});
  }
  [[nodiscard]] static uint64_t waiting(const std::string& node, Direction direction) {
    auto found = steering(node);
    return found ? found->queued_now(direction).value_or(0) : 0;
  }

  void move(const FrameRule& rule) {
    bed_->proxy_of(destination_).set_rule(rule);
    move();
    ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound))
        << "the moment never came";
  }
  void move(const Harm& harm) {
    bed_->plan(source_, harm);
    move();
    ASSERT_TRUE(wait_until([&] { return bed_->harm_done(source_); }, kReachBound)) << "the moment never came";
  }
  void move() {
    auto started = bed_->migrate(source_, destination_);
    ASSERT_EQ(started.refusal, "");
  }
  static void expect_dead(const std::string& node) {
    ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(node); }, kDeathBound)) << "the agent was not killed";
  }

  // The next agent takes over, and in the end every packet has arrived, as the client and the programs see it.
  // `in_hand`: an agent that is killed while it drains may have a frame out of the queue and not yet counted as put
  // back.
  void go_on(const std::string& expected_owner, bool in_hand = false) {
    auto restarted = bed_->start_agents();
    ASSERT_TRUE(restarted) << restarted.error().what;
    auto owner = bed_->settle(kSettleBound);
    ASSERT_TRUE(owner) << owner.error().what;
    EXPECT_EQ(*owner, expected_owner);
    for (auto direction : {Direction::ingress, Direction::egress}) {
      EXPECT_TRUE(wait_until([&] { return policy(*owner, direction).state == SteerState::pass; }, kDeathBound))
          << to_string(direction) << " is " << to_string(policy(*owner, direction).state);
    }
    expect_open(*owner);
    for (const char* node : lab::kNodes) {
      std::string log = bed_->log_since(node);
      static const std::regex kOne("held frames are lost migration=[0-9a-f]+ workload=redis direction=ingress frames=1 ");
      if (in_hand) log = std::regex_replace(log, kOne, "", std::regex_constants::format_first_only);
      EXPECT_THAT(log, Not(HasSubstr("held frames")));  // "... are lost", "... were lost with their queue"
      EXPECT_THAT(log, Not(HasSubstr("no held packets were left")));
    }
    if (!end_unharmed(*bed_)) return;
    source_ = *owner;
  }

  [[nodiscard]] static std::string answer(const std::string& node, const std::vector<std::string>& words) {
    Fd out(memfd_create("answer", MFD_CLOEXEC));
    auto command = bed_->start_command(node, words, out.get());
    EXPECT_TRUE(command) << command.error().what;
    if (!command) return "";
    EXPECT_TRUE(command->reap(kReachBound));
    std::string text(1 << 16, 0);
    ssize_t got = pread(out.get(), text.data(), text.size(), 0);
    text.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return text;
  }
  // As an operator sees it.
  static void expect_open(const std::string& node) {
    EXPECT_THAT(answer(node, {"status"}), Not(HasSubstr("wait or are dropped here")));
    auto shown = nlohmann::json::parse(answer(node, {"steer", "show", kWorkload, "--json"}), nullptr, false);
    ASSERT_TRUE(shown.is_array() && !shown.empty()) << shown.dump();
    for (const auto& service : shown) {
      EXPECT_EQ(service["ingress"]["state"], "pass");
      EXPECT_EQ(service["ingress"]["waiting"], 0);
      EXPECT_EQ(service["egress"]["state"], "pass");
    }
  }

  static std::unique_ptr<FaultBed> bed_;
  static std::string source_;  // where the workload is
  std::string destination_;
};
std::unique_ptr<FaultBed> AgentDies::bed_;
std::string AgentDies::source_;

TEST_F(AgentDies, InPassTheServiceGoesOnWithoutIt) {
  move(cut_at(FrameType::prepared, ::mose::test::Direction::from_target, [this] { bed_->kill_agent(source_); }));
  if (HasFatalFailure()) return;
  expect_dead(source_);
  ASSERT_TRUE(bed_->load().begin_window());
  std::this_thread::sleep_for(kDead);
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::pass);
  auto figures = bed_->load().end_window();
  ASSERT_TRUE(figures) << figures.error().what;
  EXPECT_LT(figures->interruption_any_ms.value_or(kGapOfARunningServiceMs), kGapOfARunningServiceMs);
  ASSERT_TRUE(bed_->load().begin_window());
  go_on(source_);
}

TEST_F(AgentDies, InHoldNewTheProgramsLetNewConnectionsInWhenTheTimeIsUp) {
  move(Harm{"dump", "request", "before", "kill-agent"});
  if (HasFatalFailure()) return;
  expect_dead(source_);
  const Timestamp died = now();
  SteerPolicy ingress = policy(source_, Direction::ingress);
  EXPECT_EQ(ingress.state, SteerState::hold_new);
  ASSERT_TRUE(ingress.deadline);
  EXPECT_LE(*ingress.deadline - died, kHoldNewMax);
  EXPECT_EQ(ingress.on_expiry, SteerState::pass);
  EXPECT_EQ(policy(source_, Direction::egress).state, SteerState::pass);
  // What is there goes on, what is new waits.
  Result<Fd> connection = fail("never");
  std::thread late([&] { connection = bed_->connect_client(); });
  EXPECT_TRUE(wait_until([&] { return waiting(source_, Direction::ingress) > 0; }, kDeathBound))
      << "a new connection was not held";
  ASSERT_TRUE(bed_->load().begin_window());
  std::this_thread::sleep_for(kDead);
  auto figures = bed_->load().end_window();
  ASSERT_TRUE(figures) << figures.error().what;
  EXPECT_LT(figures->interruption_any_ms.value_or(kGapOfARunningServiceMs), kGapOfARunningServiceMs);
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::hold_new) << "before its time";

  ASSERT_TRUE(bed_->load().begin_window());
  EXPECT_TRUE(wait_until([&] { return policy(source_, Direction::ingress).expired == SteerState::hold_new; },
                         kHoldNewMax + 1s));
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::pass);
  const Timestamp before = now();
  auto next = bed_->connect_client();
  EXPECT_TRUE(next) << next.error().what;
  EXPECT_LT(now() - before, 1s) << "after its time new connections pass at once";
  late.join();  // its SYN comes again
  go_on(source_);
}

TEST_F(AgentDies, InHoldAllStaysClosedUntilTheNextOneDecides) {
  move(Harm{"dump", "post-dump", "before", "kill-agent"});
  if (HasFatalFailure()) return;
  expect_dead(source_);
  SteerPolicy ingress = policy(source_, Direction::ingress);
  EXPECT_EQ(ingress.state, SteerState::hold);
  EXPECT_FALSE(ingress.deadline) << "what a dump may have read must not be opened by a clock";
  std::this_thread::sleep_for(kDead);
  EXPECT_EQ(policy(source_, Direction::ingress), ingress);
  EXPECT_GT(waiting(source_, Direction::ingress), 0u) << "nothing was held: the test shows nothing";
  go_on(source_);
}

TEST_F(AgentDies, InShutTheDestinationStaysSilent) {
  move(cut_at(FrameType::ready, ::mose::test::Direction::from_target, [this] { bed_->kill_agent(destination_); }));
  if (HasFatalFailure()) return;
  expect_dead(destination_);
  SteerPolicy ingress = policy(destination_, Direction::ingress), egress = policy(destination_, Direction::egress);
  EXPECT_EQ(ingress.state, SteerState::shut);
  EXPECT_TRUE(ingress.silent);
  EXPECT_FALSE(ingress.deadline);
  EXPECT_THAT(egress.state, testing::AnyOf(SteerState::hold, SteerState::shut));
  std::this_thread::sleep_for(kDead);
  EXPECT_EQ(policy(destination_, Direction::ingress), ingress);
  EXPECT_EQ(policy(destination_, Direction::egress), egress);
  go_on(source_);
}

// The source pumps for less than a millisecond: it is killed by who watches the programs, in as many moves as it takes.
TEST_F(AgentDies, InDrainWhatStillWaitsGoesToTheDestination) {
  constexpr int kMovesMax = 10;
  for (int attempt = 0; attempt < kMovesMax; ++attempt) {
    if (attempt > 0) begin();
    if (HasFatalFailure()) return;
    std::atomic<bool> over{false};
    std::thread watcher;
    FrameRule rule = cut_at(FrameType::committed, ::mose::test::Direction::from_target, [&] {
      watcher = std::thread([&, programs = steering(source_)] {
        while (programs && !over) {
          auto now_there = programs->policy(Direction::ingress);
          if (now_there && now_there->state == SteerState::hold) continue;
          bed_->kill_agent(source_);
          return;
        }
      });
    });
    rule.then = FrameRule::Then::nothing;
    move(rule);
    const bool died = !HasFatalFailure() && wait_until([&] { return !bed_->agent_alive(source_); }, kDeathBound);
    over = true;
    if (watcher.joinable()) watcher.join();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(died);
    SteerPolicy ingress = policy(source_, Direction::ingress);
    const bool caught = ingress.state == SteerState::drain;
    if (caught) {
      EXPECT_EQ(ingress.after_drain, SteerState::redirect);
      EXPECT_FALSE(ingress.deadline);
      const uint64_t waited = waiting(source_, Direction::ingress);
      EXPECT_GT(waited, 0u);
      std::this_thread::sleep_for(kDead);
      EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::drain) << "only an empty queue ends a drain";
      EXPECT_GE(waiting(source_, Direction::ingress), waited);
    }
    go_on(destination_, caught);
    if (HasFatalFailure() || caught) return;
  }
  FAIL() << "in none of " << kMovesMax << " moves was the drain caught";
}

TEST_F(AgentDies, InRedirectStragglersGoOnToTheDestination) {
  move(cut_at(FrameType::drained, ::mose::test::Direction::to_target, [this] { bed_->kill_agent(source_); }));
  if (HasFatalFailure()) return;
  expect_dead(source_);
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::redirect);
  EXPECT_EQ(policy(source_, Direction::egress).state, SteerState::shut);
  std::this_thread::sleep_for(kDead);
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::redirect);
  EXPECT_FALSE(policy(source_, Direction::ingress).deadline);
  go_on(destination_);
}

// The service runs there and answers what has drained to it, and nobody has let its answers go.
TEST_F(AgentDies, InHeldEgressTheAnswersWaitForTheNextOne) {
  move(cut_at(FrameType::drained, ::mose::test::Direction::to_target, [this] { bed_->kill_agent(destination_); }));
  if (HasFatalFailure()) return;
  expect_dead(destination_);
  SteerPolicy egress = policy(destination_, Direction::egress);
  EXPECT_EQ(policy(destination_, Direction::ingress).state, SteerState::pass);
  EXPECT_EQ(egress.state, SteerState::hold);
  EXPECT_FALSE(egress.deadline) << "an answer must not overtake what still comes from the source";
  std::this_thread::sleep_for(kDead);
  EXPECT_EQ(policy(destination_, Direction::egress), egress);
  EXPECT_GT(waiting(destination_, Direction::egress), 0u) << "nothing was held: the test shows nothing";
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::redirect);
  go_on(destination_);
}

// A planned stop, between the commit and the drain.
TEST_F(AgentDies, ByAPlannedStopAfterTheCommitItLeavesWhatItHolds) {
  move(cut_at(FrameType::committed, ::mose::test::Direction::from_target, [this] {
    bed_->stop_agent(source_);
    (void)wait_until([this] { return !bed_->agent_alive(source_); }, kDeathBound);
  }));
  if (HasFatalFailure()) return;
  expect_dead(source_);
  EXPECT_EQ(policy(source_, Direction::ingress).state, SteerState::hold);
  EXPECT_GT(waiting(source_, Direction::ingress), 0u) << "nothing was held: the test shows nothing";
  go_on(destination_);
}

}  // namespace
}  // namespace mose::test
