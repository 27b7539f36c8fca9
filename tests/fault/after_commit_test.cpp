// SPDX-License-Identifier: MIT
// After the commit, with most of the memory still at the source: either agent, both of them, or the link between the nodes fails at
// a random moment and comes back. Every answer that clients get is right, and the workload goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "after_commit.h"
#include "support/support.h"

namespace mose::test {
namespace {

constexpr Nanoseconds kCutFor = std::chrono::seconds(5);
constexpr double kWindowMs = 3000;  // of which the moment is drawn
constexpr unsigned kDrawsMax = 20;  // moments that are past the end of a move are drawn again
constexpr unsigned kFullCases = 20;

enum class Part : uint8_t { destination_agent, source_agent, both_agents, link };
constexpr std::array kParts = {Part::destination_agent, Part::source_agent, Part::both_agents, Part::link};

const char* name_of(Part part) {
  switch (part) {
    case Part::destination_agent: return "DestinationAgent";
    case Part::source_agent: return "SourceAgent";
    case Part::both_agents: return "BothAgents";
    case Part::link: return "Link";
  }
  return "";
}

struct Strike {
  Part part;
  unsigned number;
};
std::ostream& operator<<(std::ostream& out, const Strike& strike) { return out << name_of(strike.part) << strike.number; }

std::vector<Strike> strikes() {
  const bool full = in_full();
  std::vector<Strike> out;
  for (Part part : kParts) {
    const unsigned sample = part == Part::link ? 0 : 1;  // the link is cut below as well
    for (unsigned i = 0; i < (full ? kFullCases : sample); ++i) out.push_back({part, i});
  }
  return out;
}

uint64_t seed() {
  static const uint64_t value = [] {
    const char* wanted = std::getenv("MOSE_SEED");
    return wanted ? std::strtoull(wanted, nullptr, 10) : 1;
  }();
  return value;
}

struct StrikeRow {
  std::string name;
  double at_ms = 0;
  uint64_t missing = 0, answers = 0, wrong = 0;
  size_t beside = 0;  // answers of the neighbour while the part was away
  double gap_ms = 0, complete_ms = 0;
  bool ok = false;
};
std::vector<StrikeRow>& strike_rows() {
  static std::vector<StrikeRow> all;
  return all;
}

void print(const StrikeRow& row) {
  std::printf("%-20s %9.0f %9llu %9.0f %9llu %6llu %8zu %12.0f%s\n", row.name.c_str(), row.at_ms, static_cast<unsigned long long>(row.missing),
              row.gap_ms, static_cast<unsigned long long>(row.answers), static_cast<unsigned long long>(row.wrong), row.beside,
              row.complete_ms, row.ok ? "" : "  FAILED");
}

class StrikeTable : public ::testing::Environment {
 public:
  void SetUp() override { Stage::options() = {.megabytes = kMissingMegabytes, .neighbour = true}; }
  void TearDown() override {
    Stage::drop();
    std::printf("\nafter the commit, seed %llu (MOSE_SEED)\n%-20s %9s %9s %9s %9s %6s %8s %12s\n", static_cast<unsigned long long>(seed()),
                "hit", "at ms", "missing", "gap ms", "answers", "wrong", "beside", "complete ms");
    uint64_t answers = 0, wrong = 0;
    for (const StrikeRow& row : strike_rows()) {
      print(row);
      answers += row.answers;
      wrong += row.wrong;
    }
    std::printf("%zu cases, %llu answers judged by their value, %llu wrong\n", strike_rows().size(), static_cast<unsigned long long>(answers),
                static_cast<unsigned long long>(wrong));
  }
};
[[maybe_unused]] const auto* const kStrikeTable = ::testing::AddGlobalTestEnvironment(new StrikeTable);

class Struck : public AfterCommit, public ::testing::WithParamInterface<Strike> {
 protected:
  // A move with pages missing at the drawn moment, which has come when it returns.
  void reach(StrikeRow& row) {
    std::seed_seq numbers{seed(), static_cast<uint64_t>(GetParam().part), static_cast<uint64_t>(GetParam().number)};
    std::mt19937_64 random(numbers);
    std::uniform_real_distribution<double> moment(0, kWindowMs);
    for (unsigned draw = 0; draw < kDrawsMax; ++draw) {
      if (draw > 0) begin_move();
      if (HasFatalFailure()) return;
      move_until_committed();
      if (HasFatalFailure()) return;
      sleep_until_ms(moment(random));
      row.missing = bed_->missing_pages(destination_);
      row.at_ms = since_commit_ms();
      if (row.missing != 0) return;
      check_end(Side::destination);
      if (HasFailure()) return;
    }
    FAIL() << "every one of " << kDrawsMax << " moves was complete at its moment";
  }
  // Breaks the part and brings it back.
  void strike() {
    switch (GetParam().part) {
      case Part::destination_agent: return kill_and_start({destination_});
      case Part::source_agent: return kill_and_start({source_});
      case Part::both_agents: return kill_and_start({source_, destination_});
      case Part::link: break;
    }
    ASSERT_TRUE(bed_->vanish(source_, true));
    std::this_thread::sleep_for(kCutFor);
    ASSERT_TRUE(bed_->vanish(source_, false));
  }
  void kill_and_start(const std::vector<std::string>& nodes) {
    kill_agents(nodes);
    if (HasFatalFailure()) return;
    std::this_thread::sleep_for(kRestartPause);
    start_what_is_dead();
  }
};

TEST_P(Struck, EveryAnswerIsRightAndItGoesOn) {
  StrikeRow row;
  row.name = ::testing::PrintToString(GetParam());
  auto neighbour = Neighbour::start(*bed_);
  ASSERT_TRUE(neighbour) << neighbour.error().what;
  reach(row);
  if (HasFailure()) return;
  const Timestamp struck = now();
  strike();
  if (HasFatalFailure()) return;
  const Timestamp back = now();
  check_end(Side::destination);
  row.beside = (*neighbour)->answers(struck, back);
  EXPECT_EQ((*neighbour)->wrong(), 0u);
  EXPECT_GT((*neighbour)->answers(back, now()), 0u) << "the connection to the neighbour did not go on";
  row.gap_ms = row_.gap_ms;
  row.complete_ms = row_.settle_ms;
  if (figures_) {
    const client::Counts& counts = figures_->counts;
    row.answers = figures_->answers;
    row.wrong = counts.errors + counts.lost + counts.duplicated + counts.reordered;
  }
  EXPECT_GT(row.answers, 0u);
  row.ok = !HasFailure();
  strike_rows().push_back(row);
  print(row);
}

INSTANTIATE_TEST_SUITE_P(All, Struck, ::testing::ValuesIn(strikes()),
                         [](const auto& strike) { return ::testing::PrintToString(strike.param); });

// ---- What an operator sees meanwhile, and what goes on

class WhileAway : public AfterCommit {
 protected:
  // Long enough after the commit for the neighbour to have all that it needs.
  void reach() {
    auto started = Neighbour::start(*bed_);
    ASSERT_TRUE(started) << started.error().what;
    neighbour_ = std::move(*started);
    move_until_committed(kPostCopyBps / 2);
    if (HasFatalFailure()) return;
    // What the neighbour does once a second has had its pages, too: it answered all the time while it did that.
    constexpr Nanoseconds kStretch = std::chrono::milliseconds(1200);
    const Timestamp committed = now();
    ASSERT_TRUE(wait_until([&] { return now() - committed > kStretch && neighbour_->steady(now() - kStretch, now()); }, kSettleBound))
        << "the neighbour has not had its pages";
    ASSERT_GT(bed_->missing_pages(destination_), 0u) << "the pages were all there already: nothing was tested";
  }
  // The status says which pages are waited for, and since when. `began`: by the wall clock.
  void check_alarm(int64_t began_unix_ms) {
    nlohmann::json memory;
    ASSERT_TRUE(wait_until(
        [&] {
          auto progress = bed_->progress(destination_);
          if (progress && progress->is_object()) memory = (*progress)["memory"];
          return memory.is_object() && memory["alarm"] == true && memory["waiting_faults"] > 0;
        },
        std::chrono::seconds(4)))
        << memory.dump();
    EXPECT_GT(memory["missing_pages"], 0);
    EXPECT_EQ(memory["missing_bytes"].get<uint64_t>(), memory["missing_pages"].get<uint64_t>() * 4096);
    ASSERT_FALSE(memory["waiting"].empty());
    EXPECT_THAT(memory["waiting"][0]["address"].get<std::string>(), ::testing::StartsWith("0x"));
    EXPECT_GE(memory["waiting"][0]["since_unix_ms"].get<int64_t>(), began_unix_ms - 500);
    EXPECT_LE(memory["waiting"][0]["since_unix_ms"].get<int64_t>(), unix_now_ms() - 900);
    EXPECT_THAT(said(destination_, {"status"}),
                ::testing::AllOf(::testing::HasSubstr("redis are only at node " + source_), ::testing::HasSubstr("stands still where it needs"),
                                 ::testing::HasSubstr("for the page at 0x"), ::testing::HasSubstr("it goes on by itself")));
  }
  std::unique_ptr<Neighbour> neighbour_;
};

TEST_F(WhileAway, ACutLinkIsAnAlarmAndWhatHasItsPagesAnswers) {
  reach();
  if (HasFatalFailure()) return;
  const int64_t began = unix_now_ms();
  const Timestamp cut = now();
  ASSERT_TRUE(bed_->vanish(source_, true));
  check_alarm(began);
  EXPECT_GT(neighbour_->answers(cut + std::chrono::milliseconds(500), now()), 20u) << "what has its pages must go on";
  EXPECT_EQ(neighbour_->wrong(), 0u);
  ASSERT_TRUE(bed_->vanish(source_, false));
  check_end(Side::destination);
}

// Nobody was there to be told that the last page had come.
TEST_F(WhileAway, APagerThatIsDoneAndGoneHasLeftItsWord) {
  reach();
  if (HasFatalFailure()) return;
  kill_agents({destination_});
  if (HasFatalFailure()) return;
  // The guardian ends when every page is in; the pager itself waits for somebody to tell.
  ASSERT_TRUE(wait_until([&] { return bed_->guardians(destination_).empty(); }, kSettleBound)) << "the memory did not become complete";
  const auto pagers = bed_->pagers(destination_);
  ASSERT_EQ(pagers.size(), 1u);
  ASSERT_EQ(::kill(pagers[0], SIGKILL), 0);
  ASSERT_TRUE(wait_until([&] { return bed_->pagers(destination_).empty(); }, kDeathBound));
  start_what_is_dead();
  check_end(Side::destination);
  EXPECT_EQ(neighbour_->wrong(), 0u);
}

class WhileAwayInFull : public WhileAway, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(All, WhileAwayInFull, ::testing::ValuesIn(once_in_full()));
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(WhileAwayInFull);

// The workload runs, and its pager has pages to bring: without it the kernel would hand out zeros.
TEST_F(WhileAway, APagerWhoseWorkloadRunsIsCleanedUpByNobody) {
  reach();
  if (HasFatalFailure()) return;
  kill_agents({destination_});
  if (HasFatalFailure()) return;
  const std::string state = bed_->root(destination_) + "/var/lib/mose/", journal = state + "journal/" + id_ + ".destination";
  std::filesystem::rename(journal, state + "moved-away");
  start_what_is_dead();
  if (HasFatalFailure()) return;
  ASSERT_EQ(bed_->pagers(destination_).size(), 1u);
  const std::string said_of_it = said(destination_, {"cleanup"});
  EXPECT_THAT(said_of_it, ::testing::HasSubstr("left alone"));
  EXPECT_EQ(bed_->pagers(destination_).size(), 1u) << said_of_it;
  EXPECT_EQ(bed_->guardians(destination_).size(), 1u) << said_of_it;
  kill_agents({destination_});
  std::filesystem::rename(state + "moved-away", journal);
  start_what_is_dead();
  if (!HasFatalFailure()) check_end(Side::destination);
}

TEST_P(WhileAwayInFull, ADeadSourceAgentIsAnAlarmWithItsReason) {
  reach();
  if (HasFatalFailure()) return;
  const int64_t began = unix_now_ms();
  kill_agents({source_});
  if (HasFatalFailure()) return;
  check_alarm(began);
  auto progress = bed_->progress(destination_);
  ASSERT_TRUE(progress && progress->is_object());
  const auto& memory = (*progress)["memory"];
  EXPECT_THAT(memory["source_problem"].dump(), ::testing::HasSubstr("Connection refused"));
  EXPECT_GE(memory["source_problem_since_unix_ms"].get<int64_t>(), began - 500);
  EXPECT_THAT(said(destination_, {"recover", id_}), ::testing::HasSubstr("is committed and goes on by itself"));
  start_what_is_dead();
  check_end(Side::destination);
}

}  // namespace
}  // namespace mose::test
