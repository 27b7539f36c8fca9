// SPDX-License-Identifier: MIT
#include "agent/pager_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mose::agent {
namespace {

TEST(PagerLog, RefusedCallsAreCountedByName) {
  const std::string log =
      "2026-11-29T01:42:09.563 mose-pager[7808] info: pager started migration=1 call=none\n"
      "mose-pager[7808] error: a system call was refused call=execve number=59\n"
      "mose-pager[7809] error: a system call was refused call=socket number=41\n"
      "mose-pager[7808] error: a system call was refused call=execve number=59\n"
      "mose-pager[7808] error: a system call was refused call=unknown number=900";
  using Calls = std::map<std::string, unsigned>;
  EXPECT_EQ(refused_calls(log), (Calls{{"execve", 2}, {"socket", 1}, {"unknown", 1}}));
  EXPECT_EQ(refused_calls(""), Calls{});
  EXPECT_EQ(refused_calls("mose-pager[1] error: a system call was refused\n\n"), Calls{});
}

}  // namespace
}  // namespace mose::agent
