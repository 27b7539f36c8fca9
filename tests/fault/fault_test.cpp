// SPDX-License-Identifier: MIT
// kill -9 of either agent and of CRIU at each hook and each protocol step, on a real lab with a client that never lets go.
// Whatever dies: never two running trees, never none at the end, the client's connections and data survive.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bed.h"
#include "cases.h"
#include "support/support.h"

namespace mose::test {
namespace {

using wire::FrameType;

constexpr Nanoseconds kReachBound = std::chrono::seconds(6);    // from the start to the planned moment
constexpr Nanoseconds kDeathBound = std::chrono::seconds(2);    // of an agent that was killed
constexpr Nanoseconds kSettleBound = std::chrono::seconds(25);
constexpr Nanoseconds kCleanBound = std::chrono::seconds(4);    // repeated announcements and redirection end by then
constexpr double kGapMaxMs = 500;                               // where nobody died
constexpr size_t kLogLinesShown = 40;

void pause_ms(int ms) { ::usleep(static_cast<useconds_t>(ms) * 1000); }

bool wait_until(const std::function<bool()>& condition, Nanoseconds bound) {
  Timestamp deadline = now() + bound;
  while (!condition()) {
    if (now() >= deadline) return false;
    ::usleep(500);
  }
  return true;
}

std::string last_lines(const std::string& text) {
  size_t at = text.size();
  for (size_t lines = 0; at > 0 && lines <= kLogLinesShown; ++lines) at = text.rfind('\n', at - 1) == std::string::npos ? 0 : text.rfind('\n', at - 1);
  return text.substr(at);
}

// One lab for all cases; a case that fails takes it with it, so that the next one begins on clean ground.
class Stage {
 public:
  static FaultBed* get() {
    if (!bed_) {
      auto bed = FaultBed::up();
      if (!bed) {
        error_ = bed.error().what;
        return nullptr;
      }
      bed_ = std::move(*bed);
      node_ = "a";
      pause_ms(1000);  // the client's normal gaps
    }
    return bed_.get();
  }
  static void drop() { bed_.reset(); }
  static const std::string& error() { return error_; }
  static std::string& node() { return node_; }  // where the workload is

 private:
  static inline std::unique_ptr<FaultBed> bed_;
  static inline std::string error_, node_;
};

// One line of the table that is printed at the end.
struct Row {
  std::string name, expected, got;
  double gap_ms = -1, settle_ms = -1;  // the client's longest gap; from the harm to the end of it all
  bool ok = false;
};
std::vector<Row>& rows() {
  static std::vector<Row> all;
  return all;
}

class Table : public ::testing::Environment {
 public:
  void TearDown() override {
    Stage::drop();
    std::printf("\n%-55s %-12s %-12s %9s %10s\n", "case", "expected", "got", "gap ms", "settled ms");
    for (const Row& row : rows()) {
      std::printf("%-55s %-12s %-12s %9.1f %10.0f%s\n", row.name.c_str(), row.expected.c_str(), row.got.c_str(), row.gap_ms,
                  row.settle_ms, row.ok ? "" : "  FAILED");
    }
  }
};
[[maybe_unused]] const auto* const kTable = ::testing::AddGlobalTestEnvironment(new Table);

class Faults : public ::testing::Test {
 protected:
  void SetUp() override {
    bed_ = Stage::get();
    ASSERT_NE(bed_, nullptr) << Stage::error();
    row_.name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    begin_move();
  }

  void begin_move() {
    source_ = Stage::node();
    destination_ = peer_of(source_);
    bed_->clear_plans();
    bed_->mark_logs();
    bed_->watch().begin();
    ASSERT_TRUE(bed_->load().begin_window());
  }

  // A value of the report of the last move, as the source's node tells it; where it is not there, a failure and null.
  nlohmann::json report_value(const std::string& pointer) {
    auto text = bed_->report(source_, id_);
    EXPECT_TRUE(text) << text.error().what;
    auto report = nlohmann::json::parse(text.value_or(""), nullptr, false);
    nlohmann::json::json_pointer place(pointer);
    bool there = report.is_object() && report.contains(place);
    EXPECT_TRUE(there) << pointer << " is missing in the report";
    return there ? report[place] : nlohmann::json();
  }
  std::string report_text(const std::string& pointer) {
    auto value = report_value(pointer);
    EXPECT_TRUE(value.is_string()) << pointer << " is " << value.dump();
    return value.is_string() ? value.get<std::string>() : "";
  }

  void TearDown() override {
    row_.ok = !HasFailure();
    rows().push_back(row_);
    if (!HasFailure()) return;
    if (bed_) {
      for (const char* node : lab::kNodes) std::printf("---- mosed %s\n%s\n", node, last_lines(bed_->log_since(node)).c_str());
    }
    Stage::drop();
  }

  void start(const FaultBed::Wish& wish = {}) {
    auto started = bed_->migrate(source_, destination_, wish);
    ASSERT_EQ(started.refusal, "");
    id_ = started.id;
  }

  // Everything that must be true after whatever happened. The workload's new place becomes the next case's source.
  void check_end(Side expected) {
    row_.expected = to_string(expected);
    Timestamp begin = now();
    auto owner = bed_->settle(kSettleBound);
    ASSERT_TRUE(owner) << owner.error().what;
    row_.settle_ms = std::chrono::duration<double, std::milli>(now() - begin).count();
    row_.got = *owner == source_ ? "source" : "destination";
    Stage::node() = *owner;
    EXPECT_TRUE(expected == Side::either || row_.got == to_string(expected)) << "the workload is at the " << row_.got;
    check_client();
    auto seen = bed_->watch().end();
    EXPECT_GT(seen.samples, 0u);
    for (const std::string& violation : seen.violations) ADD_FAILURE() << "two trees ran: " << violation;
    EXPECT_TRUE(wait_until([&] { return running_evidence(bed_->cgroup(*owner), "redis-").has_value(); }, kDeathBound));
    check_clean(*owner);
  }

  void check_client() {
    auto figures = bed_->load().end_window();
    ASSERT_TRUE(figures) << figures.error().what;
    EXPECT_TRUE(figures->all_answered) << bed_->connections();
    EXPECT_EQ(figures->counts.errors, 0u);
    EXPECT_EQ(figures->counts.resets, 0u);
    EXPECT_EQ(figures->counts.lost, 0u);
    EXPECT_EQ(figures->counts.duplicated, 0u);
    EXPECT_EQ(figures->counts.reordered, 0u);
    // The gap itself, not what is left of it after the normal gaps are taken off.
    row_.gap_ms = figures->interruption_any_ms.value_or(-1);
    if (figures->latency_max_us) row_.gap_ms = std::max(row_.gap_ms, *figures->latency_max_us / 1000);
    auto verified = bed_->load().verify();
    ASSERT_TRUE(verified) << verified.error().what;
    EXPECT_TRUE(verified->verified) << verified->problem;
  }

  void check_clean(const std::string& owner) {
    for (const char* node : lab::kNodes) {
      std::vector<std::string> left;
      wait_until([&] { return (left = bed_->leftovers(node, owner == node)).empty(); }, kCleanBound);
      for (const std::string& what : left) ADD_FAILURE() << "left on " << node << (owner == node ? " (owner)" : "") << ": " << what;
    }
  }

  FaultBed* bed_ = nullptr;
  std::string source_, destination_, id_;
  Row row_;
};

// ---- The table

class Kill : public Faults, public ::testing::WithParamInterface<KillCase> {
 protected:
  std::string victim_node() const { return GetParam().victim == Victim::destination_agent ? destination_ : source_; }

  // The moment has come; an agent that was to die is dead.
  void strike_at_criu() {
    const KillCase& kill = GetParam();
    std::string place = kill.role == "dump" ? source_ : destination_;
    bool own_agent = kill.victim != Victim::criu && place == victim_node();
    std::string action = kill.victim == Victim::criu ? "kill-criu" : own_agent ? "kill-agent" : "hold";
    bed_->plan(place, {kill.role, kill.point, kill.moment, action});
    start({.standby = kill.standby});
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return bed_->harm_done(place); }, kReachBound)) << "the moment never came";
    if (action == "hold") {
      bed_->kill_agent(victim_node());
      bed_->go(place);
    }
  }

  void strike_at_frame() {
    FrameRule rule = *GetParam().frame;
    if (GetParam().victim != Victim::link) rule.action = [bed = bed_, node = victim_node()] { bed->kill_agent(node); };
    FrameProxy& proxy = bed_->proxy_of(destination_);
    proxy.set_rule(rule);
    start({.standby = GetParam().standby});
    if (HasFatalFailure()) return;
    ASSERT_TRUE(wait_until([&] { return proxy.fired(); }, kReachBound)) << "the moment never came";
  }
};

TEST_P(Kill, LeavesOneRunningTree) {
  row_.name = GetParam().name;
  GetParam().frame ? strike_at_frame() : strike_at_criu();
  if (HasFatalFailure()) return;
  bool agent_dies = GetParam().victim == Victim::source_agent || GetParam().victim == Victim::destination_agent;
  if (agent_dies) {
    ASSERT_TRUE(wait_until([&] { return !bed_->agent_alive(victim_node()); }, kDeathBound)) << "the agent was not killed";
    std::this_thread::sleep_for(kRestartPause);
    auto restarted = bed_->start_agents();
    ASSERT_TRUE(restarted) << restarted.error().what;
  }
  check_end(GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(All, Kill, ::testing::ValuesIn(kill_cases()), [](const auto& kill) { return kill.param.name; });

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
  std::string phase() {
    auto list = bed_->under_way(source_);
    return list && !list->empty() ? list->front() : "";
  }
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

TEST_F(Unharmed, CancelWhileFrozen) {
  bed_->plan(destination_, {"restore", "post-restore", "before", "hold"});
  start();
  if (HasFatalFailure()) return;
  ASSERT_TRUE(wait_until([&] { return bed_->harm_done(destination_); }, kReachBound));
  auto cancelled = bed_->cancel(source_, id_);
  EXPECT_TRUE(cancelled) << cancelled.error().what;
  bed_->go(destination_);
  check_short_gap();
}

TEST_F(Unharmed, CtrlCOfTheCommandLine) {
  bed_->plan(source_, {"dump", "pre-dump", "before", "hold"});
  auto command = bed_->start_command(source_, {"migrate", kWorkload, "--to", destination_}, -1);
  ASSERT_TRUE(command) << command.error().what;
  bool reached = wait_until([&] { return bed_->harm_done(source_); }, kReachBound);
  // The command is the child of a child (its pid namespace); the terminal's signal goes to the whole group.
  auto children = read_file("/proc/" + std::to_string(command->pid()) + "/task/" + std::to_string(command->pid()) + "/children");
  int inner = children ? std::atoi(children->c_str()) : 0;
  EXPECT_GT(inner, 0);
  if (inner > 0) ::kill(inner, SIGINT);
  bed_->go(source_);
  auto exit = command->reap(kSettleBound);
  ASSERT_TRUE(exit) << exit.error().what;
  EXPECT_TRUE(reached);
  EXPECT_EQ(exit->value, 5);
  check_short_gap();
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

TEST_F(Unharmed, DestinationVanishesWhileFrozen) {
  FrameRule rule;
  rule.type = FrameType::images;
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

}  // namespace
}  // namespace mose::test
