// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bed.h"
#include "cases.h"
#include "fault_rows.h"

// What every fault test does around its harm: a move is begun, the harm comes, everything is looked at afterwards.
namespace mose::test {

inline constexpr Nanoseconds kReachBound = std::chrono::seconds(20);   // from the start to the planned moment
inline constexpr Nanoseconds kDeathBound = std::chrono::seconds(2);    // of an agent that was killed
inline constexpr Nanoseconds kSettleBound = std::chrono::seconds(25);
inline constexpr Nanoseconds kCleanBound = std::chrono::seconds(4);    // repeated announcements and redirection end by then
inline constexpr double kGapMaxMs = 500;                               // where nobody died
inline constexpr double kNoticedMaxMs = 5000;                          // where CRIU died, on a machine that is busy
inline constexpr size_t kLogLinesShown = 40;

inline void pause_ms(int ms) { ::usleep(static_cast<useconds_t>(ms) * 1000); }

inline bool wait_until(const std::function<bool()>& condition, Nanoseconds bound) {
  Timestamp deadline = now() + bound;
  while (!condition()) {
    if (now() >= deadline) return false;
    ::usleep(500);
  }
  return true;
}

inline std::string last_lines(const std::string& text) {
  size_t at = text.size();
  for (size_t lines = 0; at > 0 && lines <= kLogLinesShown; ++lines) at = text.rfind('\n', at - 1) == std::string::npos ? 0 : text.rfind('\n', at - 1);
  return text.substr(at);
}

// A frame of the protocol is there and goes no further; its connection ends with what `action` does.
[[nodiscard]] inline FrameRule cut_at(wire::FrameType type, Direction direction, std::function<void()> action) {
  FrameRule rule;
  rule.type = type;
  rule.direction = direction;
  rule.then = FrameRule::Then::cut;
  rule.action = std::move(action);
  return rule;
}

// Ends the client's window: each of its connections has its answers, in order, and its data are there. Nothing, with a
// failure, where that could not be found out.
inline std::optional<client::Figures> end_unharmed(FaultBed& bed) {
  auto figures = bed.load().end_window();
  EXPECT_TRUE(figures) << figures.error().what;
  if (!figures) return std::nullopt;
  EXPECT_TRUE(figures->all_answered) << bed.connections();
  EXPECT_EQ(figures->counts.errors, 0u);
  EXPECT_EQ(figures->counts.resets, 0u);
  EXPECT_EQ(figures->counts.lost, 0u);
  EXPECT_EQ(figures->counts.duplicated, 0u);
  EXPECT_EQ(figures->counts.reordered, 0u);
  auto verified = bed.load().verify();
  EXPECT_TRUE(verified) << verified.error().what;
  if (!verified) return std::nullopt;
  EXPECT_TRUE(verified->verified) << verified->problem;
  return *figures;
}

// One lab for all cases; a case that fails takes it with it, so that the next one begins on clean ground.
class Stage {
 public:
  static FaultBed* get() {
    if (!bed_) {
      auto bed = FaultBed::up(options());
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
  static BedOptions& options() {  // of the next one; before the first test
    static BedOptions all;
    return all;
  }
  static const std::string& error() { return error_; }
  static std::string& node() { return node_; }  // where the workload is

 private:
  static inline std::unique_ptr<FaultBed> bed_;
  static inline std::string error_, node_;
};

class Faults : public ::testing::Test {
 protected:
  void SetUp() override {
    bed_ = Stage::get();
    ASSERT_NE(bed_, nullptr) << Stage::error();
    row_.name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    begin_move();
  }

  // "freezing/prepared": of the move under way, at the source and at the destination, by what their agents have said last.
  [[nodiscard]] std::string phases() const { return last_phase(source_) + "/" + last_phase(destination_); }
  [[nodiscard]] std::string last_phase(const std::string& node) const {
    const std::string log = bed_->log_since(node), end = " event=migration.phase";
    const size_t at = log.rfind(end);
    const size_t begin = at == std::string::npos ? at : log.rfind(": ", at);
    if (begin == std::string::npos) return "-";
    return log.substr(begin + 2, std::min(at, log.find(" migration=", begin)) - begin - 2);
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
    if (bed_) {
      // The pager's filter must know every call of every way that a migration can end.
      for (const char* node : lab::kNodes) EXPECT_EQ(bed_->log_since(node).find("was refused a system call"), std::string::npos);
    }
    row_.ok = !HasFailure();
    rows().push_back(row_);
    print(row_);
    if (!HasFailure()) return;
    if (bed_) {
      for (const char* node : lab::kNodes) std::printf("---- mosed %s\n%s\n", node, last_lines(bed_->log_since(node)).c_str());
    }
    Stage::drop();
  }

  // `mose` at that node; its words.
  std::string said(const std::string& node, const std::vector<std::string>& words, int exit_code = 0) {
    auto said = bed_->command(node, words);
    EXPECT_TRUE(said) << said.error().what;
    if (!said) return "";
    EXPECT_EQ(said->exit_code, exit_code) << said->text;
    return said->text;
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
    bool recovered = false;
    auto owner = bed_->settle(kSettleBound, &recovered, operator_comes_);
    ASSERT_TRUE(owner) << owner.error().what;
    if (recovered) row_.way = to_string(WayBack::operators);
    row_.settle_ms = std::chrono::duration<double, std::milli>(now() - begin).count();
    row_.got = *owner == source_ ? "source" : "destination";
    Stage::node() = *owner;
    EXPECT_TRUE(expected == Side::either || row_.got == to_string(expected)) << "the workload is at the " << row_.got;
    check_client();
    auto seen = bed_->watch().end();
    EXPECT_GT(seen.samples, 0u);
    row_.both_ran = seen.violations.size();
    for (const std::string& violation : seen.violations) ADD_FAILURE() << "two trees ran: " << violation;
    EXPECT_TRUE(wait_until([&] { return running_evidence(bed_->cgroup(*owner), "redis-").has_value(); }, kDeathBound));
    check_clean(*owner);
  }

  void check_client() {
    auto figures = end_unharmed(*bed_);
    ASSERT_TRUE(figures);
    client_tcp_ = figures->client_tcp;
    figures_ = figures;
    row_.answers = figures->answers;
    row_.lost = figures->counts.lost;
    // The gap itself, not what is left of it after the normal gaps are taken off.
    EXPECT_TRUE(figures->interruption_any_ms) << "the gap was not measured";
    row_.gap_ms = figures->interruption_any_ms.value_or(-1);
    if (figures->latency_max_us) row_.gap_ms = std::max(row_.gap_ms, *figures->latency_max_us / 1000);
  }

  void check_clean(const std::string& owner) {
    for (const char* node : lab::kNodes) {
      std::vector<std::string> left;
      wait_until([&] { return (left = bed_->leftovers(node, owner == node)).empty(); }, kCleanBound);
      row_.leftovers = row_.leftovers.value_or(0) + left.size();
      for (const std::string& what : left) ADD_FAILURE() << "left on " << node << (owner == node ? " (owner)" : "") << ": " << what;
    }
  }

  FaultBed* bed_ = nullptr;
  std::string source_, destination_, id_;
  Nanoseconds operator_comes_{0};  // see FaultBed::settle()
  Row row_;
  std::optional<client::TcpCounters> client_tcp_;  // of the case, at its end
  std::optional<client::Figures> figures_;
};

}  // namespace mose::test
