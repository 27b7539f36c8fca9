// SPDX-License-Identifier: MIT
// What `cmake --install` puts down is all that a node needs: nothing of the build tree beside it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "bed.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class Installed : public testing::Test {
 protected:
  static std::string place() { return "/tmp/mose-test-installed-files"; }
  static void SetUpTestSuite() {
    fs::remove_all(place());
    Output output = run_program({"env", "DESTDIR=" + place(), MOSE_CMAKE, "--install", MOSE_BUILD});
    ASSERT_EQ(output.exit_code, 0) << output.out << output.error;
  }
  static void TearDownTestSuite() { fs::remove_all(place()); }
};

TEST_F(Installed, AgentRunsAWorkloadFromWhatIsInstalled) {
  AgentBed bed("installed", place() + "/usr/bin");
  bed.start_agent();
  Output run = bed.mose({"run", "redis", "--address", "192.0.2.10/24", "--root", bed.root(), "--", "redis-server", "--save",
                         "", "--protected-mode", "no"});
  ASSERT_EQ(run.exit_code, 0) << run.error << bed.agent_log();
  EXPECT_TRUE(redis_answers("192.0.2.10"));
  Output stop = bed.mose({"stop", "redis"});
  EXPECT_EQ(stop.exit_code, 0) << stop.error;
  bed.terminate_agent();
}

TEST_F(Installed, EveryHelperThatTheBuildHasIsThere) {
  for (const auto& item : fs::directory_iterator(fs::path(place()) / "usr/libexec/mose")) {
    if (item.path().filename() == "root-devices") continue;  // a script, not built
    EXPECT_TRUE(fs::exists(fs::path(MOSE_BUILD) / "bin" / item.path().filename())) << item.path();
  }
  for (const char* name : {"mose-exec", "mose-holder", "mose-init", "mose-pager", "mose-throttle", "libmose-criu-preload.so"}) {
    EXPECT_TRUE(fs::exists(fs::path(place()) / "usr/libexec/mose" / name)) << name;
  }
}

TEST_F(Installed, TheDocumentsThatTheReadmeNamesAreThere) {
  for (const char* name : {"README.md", "ARCHITECTURE.md", "LICENSE", "docs/operator.md", "docs/failures.md", "docs/metrics.md", "docs/protocol.md", "docs/steering.md"}) {
    EXPECT_TRUE(fs::exists(place() + "/usr/share/doc/mose/" + name)) << name;
  }
}

TEST_F(Installed, WhatTheRootOfAWorkloadMustHaveIsThereForTheNodesOwn) {
  EXPECT_TRUE(fs::exists(place() + "/usr/libexec/mose/mose-init"));
  EXPECT_TRUE(fs::is_directory(place() + "/var/log/mose-workload"));
  const std::string root = place() + "/a-root";
  fs::create_directories(root + "/dev");
  Output made = run_program({place() + "/usr/libexec/mose/root-devices", root});
  EXPECT_EQ(made.exit_code, 0) << made.error;
  for (const char* name : {"null", "zero", "full", "random", "urandom"})
    EXPECT_TRUE(fs::is_character_file(root + "/dev/" + name)) << name;
  EXPECT_EQ(run_program({place() + "/usr/libexec/mose/root-devices", root}).exit_code, 0) << "what is there stays";
}

TEST_F(Installed, TheServiceIsOneThatSystemdTakes) {
  std::ifstream unit(place() + "/usr/lib/systemd/system/mosed.service");
  std::string text(std::istreambuf_iterator<char>(unit), {});
  ASSERT_NE(text.find("ExecStart=/usr/bin/mosed --config /etc/mose/mose.toml\n"), std::string::npos) << text;
  EXPECT_NE(text.find("KillMode=process\n"), std::string::npos) << "pager and guardian outlive the agent";
  EXPECT_NE(text.find("StartLimitIntervalSec=0\n"), std::string::npos) << "it is given up after five starts in ten seconds otherwise";
  if (!fs::exists("/usr/bin/systemd-analyze")) return;  // a host without systemd has no use for the rest
  // It wants to see the program where the unit says that it is.
  text.replace(text.find("/usr/bin/mosed"), std::string("/usr/bin/mosed").size(), place() + "/usr/bin/mosed");
  std::string copy = place() + "/mosed.service";
  std::ofstream(copy) << text;
  Output verified = run_program({"systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy});
  EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.error;
  EXPECT_EQ(verified.error, "");
}

}  // namespace
}  // namespace mose::test
