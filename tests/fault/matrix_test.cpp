// SPDX-License-Identifier: MIT
// The fault matrix (cases.h), on a real lab with a client that never lets go. Of each case: never two running trees; never none
// without the way back that its row names; no acknowledged write lost; nothing left.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>

#include "faults.h"

namespace mose::test {
namespace {

class Matrix : public Faults, public ::testing::WithParamInterface<FaultCase> {
 protected:
  static bool is_agent(Victim victim) {
    return victim == Victim::source_agent || victim == Victim::destination_agent || victim == Victim::both_agents;
  }
  [[nodiscard]] std::vector<std::string> struck_nodes() const {
    switch (GetParam().victim) {
      case Victim::source_agent: return {source_};
      case Victim::destination_agent: return {destination_};
      case Victim::both_agents: return {source_, destination_};
      default: return {};
    }
  }

  // The harm itself, at the moment; any thread.
  void harm() {
    const FaultCase& row = GetParam();
    for (const std::string& node : struck_nodes()) {
      if (row.kind == Kind::kill) bed_->kill_agent(node);
      if (row.kind == Kind::hang) bed_->hang_agent(node, true);
      if (row.kind == Kind::error) bed_->fail_writes(node, true);
    }
    if (row.victim == Victim::pager || row.victim == Victim::guardian) {
      victims_ = row.victim == Victim::pager ? bed_->pagers(destination_) : bed_->guardians(destination_);
      for (int pid : victims_) (void)::kill(pid, row.kind == Kind::kill ? SIGKILL : SIGSTOP);
    }
    if (!cable_node().empty()) (void)bed_->vanish(cable_node(), true);
    struck_ = phases();
    harmed_ = true;
  }
  [[nodiscard]] std::string cable_node() const {
    if (GetParam().victim == Victim::source_cable) return source_;
    return GetParam().victim == Victim::destination_cable ? destination_ : "";
  }

  void strike_at_criu() {
    const FaultCase& row = GetParam();
    const std::string place = row.role == "dump" ? source_ : destination_;
    const bool own_agent = is_agent(row.victim) && struck_nodes() == std::vector{place};
    std::string action = "hold";
    if (row.victim == Victim::criu) action = row.kind == Kind::kill ? "kill-criu" : row.kind == Kind::hang ? "stop-criu" : "refuse";
    if (own_agent) action = "kill-agent";
    bed_->plan(place, {row.role, row.point, row.moment, action});
    start_as_asked();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return bed_->harm_done(place); }, kReachBound)) << "the moment never came";
    if (action == "hold") {
      harm();
      bed_->go(place);
    } else {
      struck_ = phases();
    }
  }

  void strike_at_frame() {
    FrameRule rule = *GetParam().frame;
    rule.action = [this] { harm(); };
    bed_->proxy_of(destination_).set_rule(rule);
    start_as_asked();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return harmed_.load(); }, kReachBound)) << "the moment never came";
  }

  void start_as_asked() {
    const FaultCase& row = GetParam();
    start({.strategy = row.strategy, .max_bandwidth_bps = row.max_bandwidth_bps, .standby = row.standby});
  }

  // What was killed is started, what stands still goes on, what failed works.
  void end_harm() {
    const FaultCase& row = GetParam();
    if (row.kind == Kind::kill && is_agent(row.victim)) return restart();
    if (row.victim == Victim::criu || row.victim == Victim::link || row.kind == Kind::kill) return;  // nothing to be ended
    std::this_thread::sleep_for(kHangFor);
    for (const std::string& node : struck_nodes()) {
      if (row.kind == Kind::hang) bed_->hang_agent(node, false);
      if (row.kind == Kind::error) bed_->fail_writes(node, false);
    }
    for (int pid : victims_) (void)::kill(pid, SIGCONT);
    if (cable_node().empty()) return;
    auto back = bed_->vanish(cable_node(), false);
    ASSERT_TRUE(back) << back.error().what;
  }

  void restart() {
    for (const std::string& node : struck_nodes()) {
      ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(node); }, kDeathBound)) << "the agent was not killed";
    }
    // Where the table says that nobody is needed for it, it runs before anybody comes.
    if (GetParam().way == WayBack::itself) {
      EXPECT_TRUE(wait_until([&] { return running_evidence(bed_->cgroup(source_), "redis-").has_value(); }, kSettleBound))
          << "the source does not go back without its destination";
    }
    std::this_thread::sleep_for(kRestartPause);
    auto restarted = bed_->start_agents();
    ASSERT_TRUE(restarted) << restarted.error().what;
  }

  void TearDown() override {
    for (int pid : victims_) (void)::kill(pid, SIGCONT);
    Faults::TearDown();
  }

  void run() {
    const FaultCase& row = GetParam();
    row_.name = row.name;
    row_.kind = to_string(row.kind);
    row_.way = to_string(row.way);
    if (row.way == WayBack::operators) operator_comes_ = std::chrono::seconds(1);
    row.frame ? strike_at_frame() : strike_at_criu();
    row_.struck = struck_;
    if (!HasFatalFailure()) end_harm();
    if (!HasFatalFailure()) check_end(row.expected);
    if (HasFatalFailure()) return;
    EXPECT_EQ(row_.way, to_string(row.way)) << "nobody but an operator could end it";
    // The death of a CRIU is noticed at once, whatever of the tree stands still then; no other bound has to end the wait.
    if (row.victim == Victim::criu && row.kind != Kind::hang) {
      EXPECT_LT(row_.gap_ms, kNoticedMaxMs);
    }
  }

  std::atomic<bool> harmed_{false};
  std::string struck_;        // once it is
  std::vector<int> victims_;  // the same
};

class Kill : public Matrix {};
class Hang : public Matrix {};
class Error : public Matrix {};
class Cut : public Matrix {};

TEST_P(Kill, LeavesOneRunningTree) { run(); }
TEST_P(Hang, LeavesOneRunningTree) { run(); }
TEST_P(Error, LeavesOneRunningTree) { run(); }
TEST_P(Cut, LeavesOneRunningTree) { run(); }

const auto kName = [](const ::testing::TestParamInfo<FaultCase>& row) { return row.param.name; };
INSTANTIATE_TEST_SUITE_P(All, Kill, ::testing::ValuesIn(fault_cases(Kind::kill)), kName);
INSTANTIATE_TEST_SUITE_P(All, Hang, ::testing::ValuesIn(fault_cases(Kind::hang)), kName);
INSTANTIATE_TEST_SUITE_P(All, Error, ::testing::ValuesIn(fault_cases(Kind::error)), kName);
INSTANTIATE_TEST_SUITE_P(All, Cut, ::testing::ValuesIn(fault_cases(Kind::cut)), kName);

}  // namespace
}  // namespace mose::test
