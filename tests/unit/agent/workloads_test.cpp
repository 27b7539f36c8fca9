// SPDX-License-Identifier: MIT
#include "agent/workloads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "agent/journal_disk.h"
#include "support/unreadable_directory.h"
#include "temp_dir.h"

// The registry on a disk that takes nothing: what begins there is refused, what has happened is an error until it is written.
namespace mose::test {
namespace {

using agent::WorkloadState;
using ::testing::HasSubstr;

class Registry : public ::testing::Test {
 protected:
  Registry() {
    config_.node.name = "b";
    config_.node.state_dir = temp_.path();
    config_.node.runtime_dir = temp_.path() + "/run";
    config_.node.workloads_dir = temp_.path() + "/described";
    auto loop = agent::EventLoop::create();
    EXPECT_TRUE(loop);
    loop_ = std::move(*loop);
    spec_.name = "redis";
    spec_.addresses = {*parse_service_address("192.0.2.10/24")};
    spec_.command = {"/bin/redis-server"};
    spec_.root = "/srv/redis";
    id_.bytes.fill(0x17);
    restart();
  }
  void restart() {
    workloads_.reset();
    workers_ = std::make_unique<agent::WorkerPool>(*loop_, 1);
    workloads_ = std::make_unique<agent::Workloads>(config_, *loop_, *workers_, [](const agent::Workload&, const std::string&) {});
    auto loaded = workloads_->load();
    ASSERT_TRUE(loaded) << loaded.error().what;
  }
  [[nodiscard]] std::string obstacle() const { return temp_.path() + "/workloads/redis.json.new"; }
  void disk_takes_nothing() const { std::filesystem::create_directory(obstacle()); }
  void disk_takes_again() const { std::filesystem::remove(obstacle()); }
  [[nodiscard]] std::string state() const {
    const agent::Workload* workload = workloads_->find("redis");
    return workload ? to_string(workload->state) : "unknown";
  }
  void arrive() {
    auto begun = workloads_->begin_arrival(spec_, id_);
    ASSERT_TRUE(begun) << begun.error().reason;
    disk_takes_nothing();
    auto process = ProcessHandle::open(::getpid());
    ASSERT_TRUE(process);
    auto arrived = workloads_->arrived("redis", std::move(*process));
    ASSERT_FALSE(arrived) << "nobody would find it again";
    EXPECT_THAT(arrived.error().what, HasSubstr("the record of workload redis cannot be written"));
    EXPECT_EQ(state(), "running") << "as it is";
  }

  TempDir temp_;
  agent::Config config_;
  std::unique_ptr<agent::EventLoop> loop_;
  std::unique_ptr<agent::WorkerPool> workers_;
  std::unique_ptr<agent::Workloads> workloads_;
  WorkloadSpec spec_;
  MigrationId id_;
};

TEST_F(Registry, AnArrivalThatCannotBeWrittenIsRefused) {
  disk_takes_nothing();
  auto begun = workloads_->begin_arrival(spec_, id_);
  ASSERT_FALSE(begun);
  EXPECT_THAT(begun.error().reason, HasSubstr("the record of workload redis cannot be written"));
  EXPECT_EQ(state(), "unknown");
  disk_takes_again();
  EXPECT_TRUE(workloads_->begin_arrival(spec_, id_));
}

TEST_F(Registry, AnArrivedWorkloadIsSavedWhenTheDiskTakesIt) {
  arrive();
  EXPECT_FALSE(workloads_->saved("redis"));
  disk_takes_again();
  EXPECT_TRUE(workloads_->saved("redis"));
  restart();
  EXPECT_EQ(state(), "running");
}

TEST_F(Registry, WhatWasNotWrittenIsTriedAgainByItself) {
  arrive();
  disk_takes_again();
  const Timestamp deadline = now() + std::chrono::seconds(10);
  const std::string path = temp_.path() + "/workloads/redis.json";
  auto written = [&] { return temp_.read("workloads/redis.json").find("\"running\"") != std::string::npos; };
  while (!written() && now() < deadline) loop_->run_once(std::chrono::milliseconds(100));
  EXPECT_TRUE(written()) << path;
}

TEST_F(Registry, AMoveThatCannotBeWrittenIsRefusedAndOneThatEndsIsAnError) {
  arrive();
  auto refused = workloads_->begin_move("redis", id_);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().reason, HasSubstr("cannot be written"));
  EXPECT_EQ(state(), "running");
  disk_takes_again();
  ASSERT_TRUE(workloads_->begin_move("redis", id_));
  disk_takes_nothing();
  EXPECT_FALSE(workloads_->stay("redis"));
  EXPECT_EQ(state(), "running");
  disk_takes_again();
  ASSERT_TRUE(workloads_->begin_move("redis", id_));
  disk_takes_nothing();
  EXPECT_FALSE(workloads_->leave("redis", "c"));
  EXPECT_EQ(state(), "away");
  disk_takes_again();
  EXPECT_TRUE(workloads_->saved("redis"));
}

// Half of the names would be taken for all of them.
TEST(HostDisk, ADirectoryThatCannotBeReadToItsEndIsAnError) {
  TempDir temp;
  temp.write("journal/one", "text");
  EXPECT_EQ(agent::host_disk().list(temp.path() + "/journal")->size(), 3u) << "with . and ..";
  UnreadableDirectory unreadable(temp.path() + "/journal");
  if (!unreadable.works()) GTEST_SKIP() << "fanotify cannot deny here";
  auto names = agent::host_disk().list(temp.path() + "/journal");
  ASSERT_FALSE(names);
  EXPECT_THAT(names.error().what, HasSubstr("read " + temp.path() + "/journal"));
}

}  // namespace
}  // namespace mose::test
