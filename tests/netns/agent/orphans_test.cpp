// SPDX-License-Identifier: MIT
// What no record and no journal of a node names, and `mose cleanup`, which removes it: the real agent, in a node of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "bed.h"

namespace mose::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kMigration = "00112233445566778899aabbccddeeff";

class Orphans : public testing::Test {
 protected:
  static void SetUpTestSuite() { bed = new AgentBed("orphans"); }
  static void TearDownTestSuite() {
    delete bed;
    bed = nullptr;
  }
  void SetUp() override { bed->start_agent(); }
  void TearDown() override { bed->terminate_agent(); }

  static std::string migration_dir() { return bed->directory() + "/run/migrations/" + kMigration; }
  // As an arrival leaves it whose record and journal are lost: its group, and its directory, by which one sees that it is ours.
  static void leave_workload(const std::string& name) {
    fs::create_directories(bed->cgroup() + "/" + name);
    fs::create_directories(bed->directory() + "/run/workloads/" + name);
  }
  static size_t count_in(const std::string& directory) {
    size_t count = 0;
    std::error_code error;
    for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) ++count;
    return count;
  }

  static AgentBed* bed;
};
AgentBed* Orphans::bed = nullptr;

TEST_F(Orphans, ASecondCleanUpLeavesThemToTheFirst) {
  constexpr size_t kFiles = 60'000;  // the better part of a second of work
  leave_workload("lost");
  fs::create_directories(migration_dir() + "/images");
  for (size_t i = 0; i < kFiles; ++i) std::ofstream(migration_dir() + "/images/" + std::to_string(i)).flush();

  Output first;
  std::thread cleaning([&] { first = bed->mose({"cleanup"}); });
  for (int i = 0; i < 2000 && fs::exists(bed->cgroup() + "/lost"); ++i) std::this_thread::sleep_for(1ms);
  const Output second = bed->mose({"cleanup"});
  const Output run = bed->mose({"run", "lost", "--address", "192.0.2.20/24", "--root", bed->root(), "--", "/bin/sh", "-c", "sleep 1000"});
  const bool under_way = fs::exists(migration_dir());
  cleaning.join();

  ASSERT_TRUE(under_way) << "the first had ended: nothing was tried";
  EXPECT_THAT(second.out, HasSubstr("is just being removed by another `mose cleanup`"));
  EXPECT_NE(run.exit_code, 0) << "the second has let go of the first one's name";
  EXPECT_THAT(run.error, HasSubstr("what workload lost has left is just being removed"));
  EXPECT_THAT(first.out, HasSubstr("what was left of lost"));
  EXPECT_THAT(first.out, HasSubstr("what was left of migration"));
  EXPECT_EQ(count_in(bed->directory() + "/run/migrations"), 0u);
  EXPECT_THAT(bed->mose({"cleanup"}).out, HasSubstr("nothing to clean up")) << "the next one may again";
}

}  // namespace
}  // namespace mose::test
