// SPDX-License-Identifier: MIT
#include "agent/durable_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "base/fd.h"
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

// An open descriptor is how one sees what a file's pages have become.
TEST(RemoveWiped, LeavesZerosOfWhatWasThere) {
  const test::TempDir place;
  const size_t bytes = (256u << 10) + 4711;
  std::string secret(bytes, 'k');
  Fd image = std::move(*open_file(place.write("migration/images/core-1.img", secret), O_RDONLY));
  ASSERT_TRUE(remove_wiped(place.path() + "/migration"));
  EXPECT_FALSE(std::filesystem::exists(place.path() + "/migration"));
  EXPECT_EQ(read_all(image.get()).value_or(""), std::string(bytes, '\0'));
}

TEST(RemoveWiped, TouchesNothingOfOthers) {
  const test::TempDir place;
  const std::string theirs = place.write("theirs", "theirs"), linked = place.write("linked", "linked"), dir = place.path() + "/migration";
  place.write("migration/own", "own");
  ASSERT_EQ(::symlink(theirs.c_str(), (dir + "/symlink").c_str()), 0);
  ASSERT_EQ(::symlink(place.path().c_str(), (dir + "/directory").c_str()), 0);
  ASSERT_EQ(::link(linked.c_str(), (dir + "/link").c_str()), 0);
  ASSERT_EQ(::mkfifo((dir + "/fifo").c_str(), 0600), 0);
  auto removed = remove_wiped(dir);
  ASSERT_TRUE(removed) << removed.error().what;
  EXPECT_FALSE(std::filesystem::exists(dir));
  EXPECT_EQ(place.read("theirs") + place.read("linked"), "theirslinked");
}

}  // namespace
}  // namespace mose::agent
