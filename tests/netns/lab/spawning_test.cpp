// SPDX-License-Identifier: MIT
// A workload that starts one program after the other moves like any other, though no tracer stops who is within vfork().
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "kernel/spawn.h"
#include "live_lab.h"

namespace mose::lab {
namespace {

using testing::HasSubstr;
constexpr const char* kLab = "t-lab-spawning";
constexpr const char* kWorkload = "vforker";
constexpr const char* kProgram = "/usr/bin/mlab-vforker";
constexpr Nanoseconds kReadyBound = std::chrono::seconds(60);

class Spawning : public test::LiveLab {
 protected:
  Spawning() : LiveLab(kLab) {}

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(make_lab());
    auto program = helper_path("mlab-vforker");
    ASSERT_TRUE(program) << program.error().what;
    for (const char* node : kNodes) {
      std::error_code error;
      std::filesystem::copy_file(*program, root(node) + kProgram, error);
      ASSERT_FALSE(error) << error.message();
    }
    auto started = mose("a", {"run", kWorkload, "--address", std::string(kServiceAddress) + "/24", "--", kProgram});
    ASSERT_EQ(started.exit_code, 0) << started.err;
  }
  // Its output goes along.
  [[nodiscard]] std::vector<std::string> said(const std::string& node) const {
    std::istringstream text(read_file(root(node) + "/var/lib/mose/workloads/" + std::string(kWorkload) + "/log/stdout.log").value_or(""));
    std::vector<std::string> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    return lines;
  }
  void wait_for_more(const std::string& node) {
    const size_t before = said(node).size();
    for (const Timestamp deadline = now() + kReadyBound; said(node).size() < before + 100; ::usleep(10'000)) {
      ASSERT_LT(now(), deadline) << "nothing is started any more at " << node << ": " << said(node).size() << " lines";
    }
  }
  void move(const std::string& from, const std::string& to, const char* standby) {
    auto moved = mose(from, {"migrate", kWorkload, "--to", to, "--standby", standby});
    ASSERT_EQ(moved.exit_code, 0) << "--standby " << standby << ": " << moved.err;
  }
};

TEST_F(Spawning, EachMoveFindsAMomentBetweenTwoPrograms) {
  constexpr int kRounds = 4;
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_NO_FATAL_FAILURE(wait_for_more("a"));
    ASSERT_NO_FATAL_FAILURE(move("a", "b", round % 2 == 0 ? "never" : "auto"));
    ASSERT_NO_FATAL_FAILURE(wait_for_more("b"));
    ASSERT_NO_FATAL_FAILURE(move("b", "a", "never"));
  }
  ASSERT_NO_FATAL_FAILURE(wait_for_more("a"));
  const std::vector<std::string> lines = said("a");
  for (size_t i = 0; i + 1 < lines.size(); ++i) ASSERT_EQ(lines[i], std::to_string(i + 1)) << "a program failed, or ran twice";
}

}  // namespace
}  // namespace mose::lab
