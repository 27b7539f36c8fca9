// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <set>

#include "model/migration.h"

namespace mose {
namespace {

TEST(MigrationId, SurvivesItsText) {
  std::set<MigrationId> seen;
  for (int i = 0; i < 100; ++i) {
    MigrationId id = MigrationId::random();
    std::string hex = id.hex();
    EXPECT_EQ(hex.size(), 32u);
    EXPECT_EQ(hex.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_EQ(MigrationId::parse(hex).value(), id);
    seen.insert(id);
  }
  EXPECT_EQ(seen.size(), 100u);
}

TEST(MigrationId, KeepsLeadingZerosAndOrder) {
  EXPECT_EQ(MigrationId{}.hex(), std::string(32, '0'));
  MigrationId id = MigrationId::parse("000102030405060708090a0b0c0d0eff").value();
  EXPECT_EQ(id.bytes[1], 1);
  EXPECT_EQ(id.bytes[15], 0xff);
}

TEST(MigrationId, RefusesWhatIsNotThirtyTwoHexDigits) {
  for (std::string bad : {std::string(), std::string(31, 'a'), std::string(33, 'a'), std::string(32, 'g'),
                          std::string(32, 'A'), "../" + std::string(29, 'a'), std::string(32, '\0')}) {
    auto id = MigrationId::parse(bad);
    ASSERT_FALSE(id) << bad;
    EXPECT_NE(id.error().what.find("32 hex digits"), std::string::npos);
  }
}

TEST(Migration, StrategiesSurviveTheirNames) {
  for (Strategy s : {Strategy::automatic, Strategy::cold, Strategy::precopy, Strategy::postcopy, Strategy::hybrid}) {
    EXPECT_EQ(parse_strategy(to_string(s)).value(), s);
  }
  EXPECT_NE(parse_strategy("fast").error().what.find("auto, cold, precopy, postcopy or hybrid"), std::string::npos);
  EXPECT_FALSE(parse_strategy(""));
}

TEST(Migration, TrackersSurviveTheirNamesAndThoseOfReports) {
  for (Tracker t : kTrackers) {
    EXPECT_EQ(parse_tracker(to_string(t)).value(), t);
  }
  EXPECT_EQ(parse_tracker("write-protection").value(), Tracker::write_protection);
  EXPECT_EQ(parse_tracker("hash-scan").value(), Tracker::hash);
  EXPECT_NE(parse_tracker("mmu").error().what.find("auto, wp, wp-early, hash or soft-dirty"), std::string::npos);
  EXPECT_FALSE(parse_tracker(""));
}

TEST(Migration, ExitCodesAreTheContract) {
  EXPECT_EQ(exit_code(Outcome::complete), 0);
  EXPECT_EQ(exit_code(Outcome::failed), 1);
  EXPECT_EQ(kExitUsage, 2);
  EXPECT_EQ(exit_code(Outcome::refused), 3);
  EXPECT_EQ(exit_code(Outcome::failed_after_commit), 4);
  EXPECT_EQ(exit_code(Outcome::cancelled), 5);
  EXPECT_EQ(exit_code(Outcome::unknown), 6);
  EXPECT_EQ(exit_code(Outcome::target_missed), 7);
}

TEST(Migration, EveryOutcomeAndRoleHasAName) {
  for (size_t i = 0; i < kOutcomes; ++i) {
    EXPECT_NE(to_string(static_cast<Outcome>(i)), "?");
  }
  EXPECT_EQ(to_string(Role::source), "source");
  EXPECT_EQ(to_string(Role::destination), "destination");
}

}  // namespace
}  // namespace mose
