// SPDX-License-Identifier: MIT
// The privileges that the agent keeps are those that README and the service say.
#include "agent/privileges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/fd.h"
#include "kernel/confinement.h"

namespace mose::agent {
namespace {

std::set<std::string> kept() {
  std::set<std::string> out;
  for (const AgentCapability& capability : agent_capabilities()) out.insert(std::string("CAP_") + capability.name);
  return out;
}

TEST(Privileges, TheServiceBoundsTheAgentToWhatItKeeps) {
  std::ifstream unit(MOSE_SERVICE);
  std::set<std::string> bound;
  for (std::string line; std::getline(unit, line);) {
    constexpr std::string_view kKey = "CapabilityBoundingSet=";
    if (!line.starts_with(kKey)) continue;
    std::istringstream words(line.substr(kKey.size()));
    for (std::string word; words >> word;) EXPECT_TRUE(bound.insert(word).second) << word;
  }
  EXPECT_EQ(bound, kept());
}

TEST(Privileges, ReadmeGivesEachWithItsReason) {
  const std::string text = read_file(MOSE_README).value_or("");
  const size_t begin = text.find("## Privileges");
  ASSERT_NE(begin, std::string::npos);
  const std::string section = text.substr(begin, text.find("\n## ", begin + 1) - begin);
  for (const AgentCapability& capability : agent_capabilities()) {
    EXPECT_THAT(section, testing::HasSubstr(std::string("| ") + capability.name + " | " + capability.reason + " |"));
  }
}

TEST(Privileges, OthersAreGivenUpForGood) {
  if (geteuid() != 0) GTEST_SKIP() << "nobody else has any";
  const pid_t child = fork();
  if (child == 0) {
    if (!leave_other_capabilities()) _exit(2);
    uint64_t mask = 0;
    for (const AgentCapability& capability : agent_capabilities()) mask |= 1ull << capability.number;
    std::istringstream status(read_file("/proc/self/status").value_or(""));
    int seen = 0;
    for (std::string line; std::getline(status, line);) {
      if (!line.starts_with("CapPrm:") && !line.starts_with("CapEff:") && !line.starts_with("CapBnd:")) continue;
      if ((strtoull(line.c_str() + 7, nullptr, 16) & ~mask) != 0) _exit(3);
      ++seen;
    }
    if (seen != 3) _exit(4);
    // Of a workload that an agent of before has started: what it could not get back here.
    if (capabilities_missing_here(mask & own_capabilities()) != "") _exit(5);
    if (capabilities_missing_here(1ull << CAP_SYS_BOOT | 1ull << CAP_SYSLOG | 1ull << CAP_KILL) != "CAP_SYS_BOOT, CAP_SYSLOG") _exit(6);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace mose::agent
