// SPDX-License-Identifier: MIT
#include "agent/durable_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "temp_dir.h"

namespace mose::agent {
namespace {

// As a pager does that ends while its agent tidies up.
TEST(RemoveTree, IsNotStoppedByWhoTakesHisFilesAwayAtTheSameMoment) {
  constexpr int kFiles = 30;
  for (int round = 0; round < 100; ++round) {
    const test::TempDir place;
    const std::string dir = place.path() + "/migration";
    for (int i = 0; i < kFiles; ++i) place.write("migration/f" + std::to_string(i), "x");
    place.write("migration/below/g", "x");
    std::thread other([&dir] {
      for (int i = 0; i < kFiles; ++i) (void)::unlink((dir + "/f" + std::to_string(i)).c_str());
    });
    auto removed = remove_tree(dir);
    other.join();
    ASSERT_TRUE(removed) << removed.error().what;
    ASSERT_FALSE(std::filesystem::exists(dir)) << "in round " << round;
  }
}

TEST(RemoveTree, WhatIsNotThereIsFineAndWhatCannotGoIsAnError) {
  const test::TempDir place;
  EXPECT_TRUE(remove_tree(place.path() + "/nothing"));
  EXPECT_TRUE(remove_tree(place.write("file", "x")));
  EXPECT_FALSE(std::filesystem::exists(place.path() + "/file"));
  EXPECT_FALSE(remove_tree("/proc/self/status"));
}

}  // namespace
}  // namespace mose::agent
