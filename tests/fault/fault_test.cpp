// SPDX-License-Identifier: MIT
// What happens to a move beside the matrix (matrix_test.cpp): the pager's death, a warm standby, an operator who changes his mind,
// nodes that vanish.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "faults.h"
#include "support/support.h"

namespace mose::test {
namespace {

using wire::FrameType;

[[maybe_unused]] const auto* const kTable = ::testing::AddGlobalTestEnvironment(new Table(&Stage::drop));

// ---- The pager

class Pager : public Faults {};

// Pure post-copy over a slow channel: the workload is thawed with nearly all of its pages missing.
TEST_F(Pager, KilledAfterTheCommitIsReplacedAndNothingIsLost) {
  constexpr uint64_t kSlowBps = 40'000'000;
  FrameRule rule;
  rule.type = FrameType::committed;
  rule.direction = Direction::from_target;
  bed_->proxy_of(destination_).set_rule(rule);
  start({"postcopy", kSlowBps});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound));
  auto pagers = bed_->pagers(destination_);
  ASSERT_EQ(pagers.size(), 1u);
  ASSERT_EQ(::kill(pagers.front(), SIGKILL), 0);
  // Faulting threads wait; they get neither zero pages nor a signal.
  pause_ms(300);
  EXPECT_TRUE(group_may_run(bed_->cgroup(destination_)));
  auto under_way = bed_->under_way(destination_);
  EXPECT_TRUE(under_way && under_way->size() == 1) << "the pages were all there already: nothing was tested";
  check_end(Side::destination);
}

// What it has received goes with it, and nobody could take over: the source must not be kept waiting for it.
TEST_F(Pager, KilledBeforeTheFinalMapEndsTheMigrationAtOnce) {
  for (bool standby : {true, false}) {
    FrameRule rule;
    rule.type = standby ? FrameType::standing : FrameType::prepared;
    rule.direction = Direction::from_target;
    rule.action = [this] {
      for (int pid : bed_->pagers(destination_)) (void)::kill(pid, SIGKILL);
    };
    bed_->proxy_of(destination_).set_rule(rule);
    start({.standby = standby});
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound));
    auto owner = bed_->settle(kSettleBound);
    ASSERT_TRUE(owner) << owner.error().what;
  }
  check_end(Side::source);
  EXPECT_LT(row_.gap_ms, kGapMaxMs);
}

// ---- A warm standby

class WithStandby : public Faults {};

// A busy machine, or Redis' allocator, may be a reason to drop one; nothing else is here, and not each time.
TEST_F(WithStandby, IsUsedWhereNothingStandsAgainstIt) {
  constexpr unsigned kMovesMax = 4;
  const auto allowed = ::testing::AnyOf(
      ::testing::HasSubstr("the mappings of"), ::testing::HasSubstr("the clocks of the standby"),
      ::testing::HasSubstr("did not build it in time"), ::testing::HasSubstr("were written again and are still at the source"),
      ::testing::HasSubstr("did not become up to date in time"), ::testing::HasSubstr("no round of pre-copy followed"));
  bool used = false;
  for (unsigned move = 0; move < kMovesMax; ++move) {
    if (move > 0) begin_move();
    if (HasFatalFailure()) return;
    start({.standby = true});
    if (HasFatalFailure()) return;
    check_end(Side::destination);
    if (HasFatalFailure()) return;
    EXPECT_LT(row_.gap_ms, kGapMaxMs);
    used = report_value("/standby/used") == true;
    if (used) break;
    EXPECT_THAT(report_text("/standby/reason"), allowed);
  }
  EXPECT_TRUE(used) << "in none of " << kMovesMax << " moves";
}

TEST_F(WithStandby, CancelWhileItIsDumped) {
  bed_->plan(source_, {"dump", "post-dump", "before", "hold"});
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->harm_done(source_); }, kReachBound));
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  bed_->go(source_);
  check_end(Side::source);
  EXPECT_LT(row_.gap_ms, kGapMaxMs);
}

TEST_F(WithStandby, CancelWhileItIsRestored) {
  bed_->plan(destination_, {"restore", "post-restore", "before", "hold"});
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->harm_done(destination_); }, kReachBound));
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  bed_->go(destination_);
  check_end(Side::source);
  EXPECT_LT(row_.gap_ms, kGapMaxMs);
}

TEST_F(WithStandby, CancelWhileItStands) {
  FrameRule rule;
  rule.type = FrameType::standing;
  rule.direction = Direction::from_target;
  rule.then = FrameRule::Then::delay;
  rule.delay = std::chrono::milliseconds(300);
  bed_->proxy_of(destination_).set_rule(rule);
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound));
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  check_end(Side::source);
  EXPECT_LT(row_.gap_ms, kGapMaxMs);
}

// A CRIU that is slow before it begins costs nothing: its clocks are set when it has begun.
TEST_F(WithStandby, IsUsedWhenCriuIsLongInStarting) {
  bed_->plan(destination_, {"restore", "request", "before", "hold"});
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->harm_done(destination_); }, kReachBound));
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  bed_->go(destination_);
  check_end(Side::destination);
  EXPECT_THAT(report_value("/standby/reason").dump(), ::testing::Not(::testing::HasSubstr("clocks")));
}

// It makes the clocks so late that those of the workload would go back: found out when it is built, not while the workload
// stands still.
TEST_F(WithStandby, IsLeftWhenItsClocksAreBehind) {
  bed_->plan(destination_, {"restore", "pre-restore", "answered", "hold"});
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->harm_done(destination_); }, kReachBound));
  std::this_thread::sleep_for(std::chrono::milliseconds(700));  // more than any clock is set ahead
  bed_->go(destination_);
  check_end(Side::destination);
  EXPECT_EQ(report_value("/standby/used"), false);
  const std::string reason = report_text("/standby/reason");
  EXPECT_NE(reason.find("the clocks of the standby are behind"), std::string::npos) << reason;
  EXPECT_NE(reason.find("CRIU came to them later"), std::string::npos) << reason;
}

// It freezes what a CRIU that has died leaves behind, and may come to it when the agent has cleared that away already: the next CRIU
// must not find a frozen group.
TEST_F(WithStandby, IsLeftWhenItsPagerSeesTheDeathOfItsCriuLast) {
  bed_->plan(destination_, {"restore", "pre-restore", "before", "hold"});
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->harm_done(destination_); }, kReachBound));
  const auto pagers = bed_->pagers(destination_);
  ASSERT_EQ(pagers.size(), 1u);
  ASSERT_EQ(::kill(pagers[0], SIGSTOP), 0);
  bed_->plan(destination_, {"restore", "setup-namespaces", "before", "kill-criu"});
  bed_->go(destination_);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_THAT(bed_->log_since(destination_), ::testing::HasSubstr("the standby is dropped"));
  ASSERT_EQ(::kill(pagers[0], SIGCONT), 0);
  check_end(Side::destination);
  EXPECT_EQ(report_value("/standby/used"), false);
}

// A connection that the standby knows nothing of: it must not get lost with it.
TEST_F(WithStandby, IsLeftWhenAConnectionHasComeSince) {
  FrameRule rule;
  rule.type = FrameType::standing;
  rule.direction = Direction::from_target;
  rule.then = FrameRule::Then::delay;
  rule.delay = std::chrono::milliseconds(400);
  bed_->proxy_of(destination_).set_rule(rule);
  start({.standby = true});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound));
  auto connection = bed_->connect_client();
  ASSERT_TRUE(connection) << connection.error().what;
  auto ping = [&] {
    char answer[16] = "";
    bool sent = write_all(connection->get(), "PING\r\n").has_value();
    return sent && ::read(connection->get(), answer, sizeof answer - 1) > 0 ? std::string(answer) : std::string("nothing");
  };
  EXPECT_EQ(ping(), "+PONG\r\n");
  check_end(Side::destination);
  EXPECT_EQ(report_value("/standby/used"), false);
  EXPECT_THAT(report_text("/standby/reason"), ::testing::HasSubstr("has opened descriptor"));
  EXPECT_EQ(ping(), "+PONG\r\n");
}

// ---- Without a death: the workload hardly notices

class Unharmed : public Faults {
 protected:
  void check_short_gap() {
    check_end(Side::source);
    EXPECT_LT(row_.gap_ms, kGapMaxMs);
  }
  // Since the workload's network was made; it stays the same where it is not moved.
  std::optional<client::TcpCounters> workload_tcp() {
    auto pids = read_file(bed_->cgroup(source_) + "/cgroup.procs");
    return pids ? client::read_tcp_counters(pids->substr(0, pids->find('\n'))) : std::nullopt;
  }
  std::string phase() {
    auto list = bed_->under_way(source_);
    return list && !list->empty() ? list->front() : "";
  }
  // SIGINT to `mose migrate` while CRIU is held at that moment on that node.
  void interrupt_at(const std::string& node, const Harm& moment);
  // The destination is gone for a while from the moment that frame has passed.
  void vanish_after(FrameType type, Direction direction);
  // Held at the frame until the test goes on; the proxy's thread waits.
  void start_and_reach(FrameType type, Direction direction, FrameRule::Then then, Nanoseconds delay = {}) {
    FrameRule rule;
    rule.type = type;
    rule.direction = direction;
    rule.then = then;
    rule.delay = delay;
    bed_->proxy_of(destination_).set_rule(rule);
    start();
  }
};

void Unharmed::interrupt_at(const std::string& node, const Harm& moment) {
  bed_->plan(node, moment);
  auto command = bed_->start_command(source_, {"migrate", kWorkload, "--to", destination_}, -1);
  ASSERT_TRUE(command) << command.error().what;
  bool reached = wait_until([&] { return bed_->harm_done(node); }, kReachBound);
  // The command is the child of a child (its pid namespace); the terminal's signal goes to the whole group.
  auto children = read_file("/proc/" + std::to_string(command->pid()) + "/task/" + std::to_string(command->pid()) + "/children");
  int inner = children ? std::atoi(children->c_str()) : 0;
  EXPECT_GT(inner, 0);
  if (inner > 0) ::kill(inner, SIGINT);
  pause_ms(100);
  bed_->go(node);
  auto exit = command->reap(kSettleBound);
  ASSERT_TRUE(exit) << exit.error().what;
  EXPECT_TRUE(reached);
  EXPECT_EQ(exit->value, 5);
  check_short_gap();
}

void Unharmed::vanish_after(FrameType type, Direction direction) {
  FrameRule rule;
  rule.type = type;
  rule.direction = direction;
  rule.moment = Moment::after;
  rule.then = FrameRule::Then::swallow;
  rule.action = [bed = bed_, node = destination_] { (void)bed->vanish(node, true); };
  bed_->proxy_of(destination_).set_rule(rule);
  start();
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound));
  pause_ms(1500);
  ASSERT_TRUE(bed_->vanish(destination_, false));
  bed_->proxy_of(destination_).heal();
  check_short_gap();
}

// The first frame of the destination moves the switches' port: what clients send from then on comes to it directly and would
// overtake what the source has not redirected yet.
TEST_F(Unharmed, TheDestinationIsSilentUntilTheSourceHasDrained) {
  constexpr Nanoseconds kLate = std::chrono::milliseconds(150);
  start_and_reach(FrameType::drained, Direction::to_target, FrameRule::Then::delay, kLate);
  if (HasFatalFailure()) return;
  check_end(Side::destination);
  EXPECT_GE(row_.gap_ms, to_ms(kLate));
  EXPECT_LT(row_.gap_ms, kGapMaxMs);
}

TEST_F(Unharmed, CancelWhilePreparing) {
  start_and_reach(FrameType::prepared, Direction::from_target, FrameRule::Then::delay, std::chrono::milliseconds(300));
  if (HasFatalFailure()) return;
  pause_ms(100);
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  check_short_gap();
}

// What was held comes back before TCP's shortest timer (200 ms): neither side has sent anything again but tail loss probes.
TEST_F(Unharmed, CancelWhileFrozen) {
  constexpr double kJudgedMs = 180;
  constexpr int kMovesMax = 5;
  for (int move = 0; move < kMovesMax; ++move) {
    if (move > 0) begin_move();
    if (HasFatalFailure()) return;
    const auto before = workload_tcp();
    bed_->plan(destination_, {"restore", "post-restore", "before", "hold"});
    start();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return bed_->harm_done(destination_); }, kReachBound));
    auto cancelled = bed_->cancel(source_, id_);
    EXPECT_TRUE(cancelled) << cancelled.error().what;
    bed_->go(destination_);
    check_short_gap();
    if (HasFatalFailure()) return;
    if (row_.gap_ms > kJudgedMs) continue;  // the machine was busy
    const auto after = workload_tcp();
    ASSERT_TRUE(before && after && client_tcp_);
    EXPECT_EQ(client_tcp_->timeouts, 0u);
    EXPECT_EQ((*after - *before).timeouts, 0u);
    return;
  }
  FAIL() << "in none of " << kMovesMax << " moves was the service back within " << kJudgedMs << " ms";
}

// It has been started beside the closing round, ahead of the freeze, and waits. Behind a standby the last round that may be is a closing
// one, and so slow that it may die there.
TEST_F(Unharmed, ACriuThatWasPreparedAndDiesIsReplaced) {
  constexpr uint64_t kSlowBps = 40'000'000;
  constexpr int kPreparedMs = 150, kMovesMax = 4;
  for (int move = 0; move < kMovesMax; ++move) {
    if (move > 0) begin_move();
    start({.max_bandwidth_bps = kSlowBps, .standby = true, .tracker = "wp", .rounds_max = 2});
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return bed_->round(source_) == 2 && !bed_->crius(source_).empty(); }, kReachBound));
    pause_ms(kPreparedMs);
    const bool waits = last_phase(source_) == "precopy";  // else little had been written, and the round was short
    if (waits)
      for (int pid : bed_->crius(source_)) (void)::kill(pid, SIGKILL);
    check_end(Side::destination);
    if (HasFatalFailure()) return;
    EXPECT_LT(row_.gap_ms, kGapMaxMs);
    if (!waits) continue;
    EXPECT_THAT(bed_->log_since(source_),
                ::testing::HasSubstr("the CRIU that was prepared ahead has ended: another is started"));
    return;
  }
  FAIL() << "in none of " << kMovesMax << " moves did the closing round last so long";
}

TEST_F(Unharmed, CtrlCOfTheCommandLine) { interrupt_at(source_, {"dump", "pre-dump", "before", "hold"}); }

TEST_F(Unharmed, CtrlCOfTheCommandLineWhileFrozen) {
  interrupt_at(destination_, {"restore", "post-restore", "before", "hold"});
}

TEST_F(Unharmed, RefusedBecauseTheNodeIsUnknown) {
  auto refused = bed_->migrate(source_, "nowhere");
  EXPECT_EQ(refused.id, "");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.refusal.find("nowhere"), std::string::npos) << refused.refusal;
  check_short_gap();
}

TEST_F(Unharmed, DestinationsDiskIsFull) {
  ASSERT_TRUE(bed_->set_run_size(destination_, "8m"));
  start();
  auto owner = HasFatalFailure() ? Result<std::string>(fail("not started")) : bed_->settle(kSettleBound);
  EXPECT_TRUE(bed_->set_run_size(destination_, "50%"));
  ASSERT_TRUE(owner) << owner.error().what;
  EXPECT_EQ(report_text("/outcome"), "refused");
  EXPECT_THAT(report_text("/reason"), ::testing::AllOf(::testing::HasSubstr("node " + destination_ + " refuses: /run/mose has "),
                                                        ::testing::HasSubstr(" free and the images need 16.0 MiB")));
  check_short_gap();
}

TEST_F(Unharmed, DestinationVanishesWhilePreparing) {
  start_and_reach(FrameType::prepare, Direction::to_target, FrameRule::Then::swallow);
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->proxy_of(destination_).fired(); }, kReachBound));
  pause_ms(700);
  (void)bed_->cancel(source_, id_);  // nobody waits for the whole time-out
  pause_ms(300);
  bed_->proxy_of(destination_).heal();
  check_short_gap();
}

TEST_F(Unharmed, DestinationVanishesInPreCopy) { vanish_after(FrameType::prepared, Direction::from_target); }

TEST_F(Unharmed, DestinationVanishesWhileFrozen) { vanish_after(FrameType::images, Direction::to_target); }

// ---- The workload's own end

class OfItself : public Faults {
 protected:
  void TearDown() override {
    Faults::TearDown();
    Stage::drop();  // its workload is gone
  }
};

TEST_F(OfItself, AWorkloadThatEndsInPreCopyIsSaidToHaveEndedAndHow) {
  constexpr uint64_t kSlowBps = 40'000'000;
  start({.max_bandwidth_bps = kSlowBps});
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return last_phase(source_) == "precopy"; }, kReachBound));
  auto pids = read_file(bed_->cgroup(source_) + "/cgroup.procs");
  ASSERT_TRUE(pids);
  const int program = std::atoi(pids->substr(pids->find('\n') + 1).c_str());  // behind process 1
  ASSERT_GT(program, 0);
  ASSERT_EQ(::kill(program, SIGKILL), 0);
  EXPECT_TRUE(wait_until([&] { return said(source_, {"status"}).contains("no migration is under way"); }, kSettleBound));
  constexpr const char* kEnd = "workload redis has ended: exit status 137";
  EXPECT_THAT(said(source_, {"show", id_}), ::testing::HasSubstr(kEnd));
  EXPECT_THAT(said(source_, {"workloads"}), ::testing::HasSubstr("exit status 137 during a migration"));
}

}  // namespace
}  // namespace mose::test
