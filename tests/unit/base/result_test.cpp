// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <memory>

#include "base/check.h"
#include "base/log.h"
#include "base/result.h"

namespace mose {
namespace {

Status fails_with(int code) {
  errno = code;
  return fail_errno("open /run/x");
}

Status tries(bool good, bool& reached) {
  MOSE_TRY(good ? Status{} : Status(fail("no")));
  reached = true;
  return {};
}

Result<std::unique_ptr<int>> number(bool good) {
  if (!good) return fail("no number");
  return std::make_unique<int>(4);
}

Result<int> doubled(bool good) {
  MOSE_ASSIGN(auto pointer, number(good));
  MOSE_ASSIGN(auto second, number(true));  // two in one function
  return *pointer + *second;
}

TEST(Result, AnErrnoIsTakenAtOnceAndNamed) {
  Status status = fails_with(ENOENT);
  EXPECT_EQ(status.error().code, ENOENT);
  EXPECT_EQ(status.error().what, "open /run/x: No such file or directory");
}

TEST(Result, EachLayerAddsItsWordsInFrontAndKeepsTheCode) {
  Status status = context("journal", fails_with(ENOSPC).error());
  EXPECT_EQ(status.error().code, ENOSPC);
  EXPECT_EQ(status.error().what, "journal: open /run/x: No space left on device");
}

TEST(Result, AnErrorWithoutAnErrnoHasCodeZero) {
  Status status = fail("the page map is missing");
  EXPECT_EQ(status.error(), (Error{0, "the page map is missing"}));
}

TEST(Result, TryLeavesWithTheErrorOrGoesOn) {
  bool reached = false;
  EXPECT_FALSE(tries(false, reached));
  EXPECT_FALSE(reached);
  EXPECT_TRUE(tries(true, reached));
  EXPECT_TRUE(reached);
}

TEST(Result, AssignMovesTheValueOutOrLeaves) {
  EXPECT_EQ(doubled(true).value(), 8);
  EXPECT_EQ(doubled(false).error().what, "no number");
}

TEST(CheckDeathTest, ABrokenInvariantEndsTheProcessWithItsText) {
  MOSE_CHECK(true, "holds");
  EXPECT_DEATH(MOSE_CHECK(1 > 2, "one is more than two"), "broken invariant: one is more than two \\(1 > 2\\)");
}

TEST(Log, LevelsAreParsedByNameOnly) {
  log::Level level = log::Level::error;
  EXPECT_TRUE(log::parse_level("debug", level));
  EXPECT_EQ(level, log::Level::debug);
  for (const char* bad : {"", "DEBUG", "verbose", "info "}) EXPECT_FALSE(log::parse_level(bad, level)) << bad;
  EXPECT_EQ(level, log::Level::debug);
}

TEST(Log, FieldsThatHoldSpacesQuotesOrLinesStayOneField) {
  log::init("base_test", log::Level::info);
  testing::internal::CaptureStderr();
  log::debug("too quiet to be seen");
  log::warn(
      "page map is late",
      {{"workload", "redis"}, {"why", "two\nlines and \"quotes\""}, {"pages", 12}, {"late", true}, {"empty", ""}});
  std::string line = testing::internal::GetCapturedStderr();
  EXPECT_EQ(line.find("too quiet"), std::string::npos);
  EXPECT_NE(
      line.find(
          "page map is late workload=redis why=\"two\\nlines and \\\"quotes\\\"\" pages=12 late=true empty=\"\"\n"),
      std::string::npos)
      << line;
}

}  // namespace
}  // namespace mose
