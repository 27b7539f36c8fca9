// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include "kernel/cgroup.h"
#include "kernel/spawn.h"
#include "model/migration.h"
#include "netns/pager/support.h"
#include "restore/pager_client.h"
#include "restore/pager_frames.h"
#include "support/support.h"

namespace mose::test {
namespace {

using restore::PagerClient;
using restore::PagerPhase;

constexpr int32_t kVpid = 7;

// A pager process with its cgroup and directory; killed and removed at the end.
class PagerProcessTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { require_userfaultfd(); }

  void SetUp() override {
    char name[] = "/tmp/mpager-XXXXXX";
    directory_ = ::mkdtemp(name);
    images_ = directory_ + "/images";
    std::filesystem::create_directory(images_);
    socket_ = directory_ + "/pager.sock";
    auto mount = cgroup_mount();
    if (!mount) skip_process("no cgroup v2 here");
    auto group = Cgroup::create(*mount + "/mose-test-mpager");
    if (!group) skip_process("no cgroup can be made: " + group.error().what);
    cgroup_ = std::move(*group);
    ASSERT_TRUE(cgroup_.thaw());
  }
  void TearDown() override {
    (void)cgroup_.kill();
    (void)cgroup_.thaw();
    // In this order: a pager replaces a guardian that dies.
    if (pager_.alive()) (void)pager_.signal(SIGKILL);
    (void)pager_.reap(std::chrono::seconds(5));
    if (auto guardian = restore::read_guardian_file(socket_)) ::kill(static_cast<pid_t>(guardian->pid), SIGKILL);
    toy_.reset();
    (void)cgroup_.remove(std::chrono::seconds(5));
    std::filesystem::remove_all(directory_);
  }

  void start_pager(uint64_t pages, uint64_t remote_from, unsigned delay_ms, uint32_t adopt = 0) {
    SpawnRequest request;
    request.program = *helper_path("mpager-host");
    request.arguments = {id_,
                         images_,
                         socket_,
                         cgroup_.path(),
                         std::to_string(kVpid),
                         std::to_string(pages),
                         std::to_string(remote_from),
                         std::to_string(delay_ms),
                         std::to_string(adopt)};
    request.new_session = true;
    auto spawned = spawn(request);
    ASSERT_TRUE(spawned) << spawned.error().what;
    pager_ = std::move(*spawned);
    connect();
  }
  void connect() {
    client_.reset();
    ASSERT_TRUE(eventually([&] {
      auto client = PagerClient::connect(socket_);
      if (client) client_.emplace(std::move(*client));
      return client.has_value();
    }));
    ASSERT_TRUE(until([&] { return client_->status().phase != PagerPhase::unknown; }));
  }
  // Reads what the pager says until `condition` holds.
  bool until(const std::function<bool()>& condition) {
    return eventually([&] {
      auto events = client_->on_ready();
      if (!events) return lost_ = true, condition();
      for (auto& event : *events) events_.push_back(event);
      return condition();
    });
  }
  bool until_phase(PagerPhase phase) {
    return until([&] { return client_->status().phase == phase; });
  }
  bool saw(restore::PagerEventKind kind) const {
    for (const auto& event : events_)
      if (event.kind == kind) return true;
    return false;
  }
  void restore_toy(uint64_t pages, Toy::Scenario scenario) {
    criu_ = connect_lazy(images_);
    toy_ = std::make_unique<Toy>(criu_.get(), kVpid, pages, std::move(scenario), cgroup_.path());
    toy_->wait_registered();
  }
  void finish_restore() {
    send_word(criu_.get(), kRstf);
    criu_.reset();
    ASSERT_TRUE(until_phase(PagerPhase::fenced));
  }
  bool guardian_gone(uint32_t pid) {
    return eventually([&] { return ::kill(static_cast<pid_t>(pid), 0) != 0; });
  }

  std::string id_ = MigrationId::random().hex();
  std::string directory_, images_, socket_;
  Cgroup cgroup_;
  ProcessHandle pager_;
  Fd criu_;
  std::unique_ptr<Toy> toy_;
  std::optional<PagerClient> client_;
  std::vector<restore::PagerEvent> events_;
  bool lost_ = false;
};

int check(uint64_t from, uint64_t to) {
  for (uint64_t i = from; i < to; ++i)
    if (!page_is(kHostSalt, kToyPage + i, toy_page(i))) return 1;
  return 0;
}

TEST_F(PagerProcessTest, TheFenceIsRaisedWhenCriuHasGoneAndOnlyMosedThaws) {
  auto* counter = static_cast<std::atomic<uint64_t>*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  start_pager(1000, 1000, 0);
  EXPECT_EQ(client_->status().phase, PagerPhase::listening);
  restore_toy(1000, [counter] {
    for (int i = 0; i < 300; ++i, ++*counter) ::usleep(1000);
    return check(0, 1000);
  });
  EXPECT_TRUE(until_phase(PagerPhase::restoring));
  toy_->go();
  ASSERT_TRUE(eventually([&] { return *counter > 5; }));
  send_word(criu_.get(), kRstf);
  // CRIU still makes the tasks run system calls: they must be able to.
  uint64_t seen = *counter;
  EXPECT_TRUE(eventually([&] { return *counter > seen + 20; }));
  EXPECT_FALSE(*cgroup_.freeze_requested());
  criu_.reset();
  ASSERT_TRUE(until([&] { return saw(restore::PagerEventKind::restored); }));
  EXPECT_TRUE(*cgroup_.frozen());
  seen = *counter;
  ::usleep(50000);
  EXPECT_EQ(*counter, seen);
  ASSERT_TRUE(until_phase(PagerPhase::complete)) << to_string(client_->status().phase);
  ASSERT_TRUE(cgroup_.thaw());
  ASSERT_TRUE(client_->thawed());
  EXPECT_EQ(toy_->wait(), 0);
  EXPECT_EQ(client_->status().progress.installed_pages, 1000u);
  ASSERT_TRUE(client_->quit(false));
  EXPECT_TRUE(pager_.reap(std::chrono::seconds(5))->success());
  EXPECT_TRUE(guardian_gone(client_->status().guardian_pid));
  EXPECT_FALSE(std::filesystem::exists(socket_));
  ::munmap(counter, 4096);
}

TEST_F(PagerProcessTest, AStreamThatEndsWithoutTheWordFreezesAndIsReported) {
  start_pager(100, 100, 0);
  restore_toy(100, [] {
    ::pause();
    return 0;
  });
  criu_.reset();
  ASSERT_TRUE(until_phase(PagerPhase::failed));
  EXPECT_NE(client_->status().reason.find("before the restore was finished"), std::string::npos);
  EXPECT_TRUE(cgroup_.wait_frozen(std::chrono::seconds(5)));
}

TEST_F(PagerProcessTest, WhatNoCriuWritesFreezesAndIsReported) {
  start_pager(100, 100, 0);
  criu_ = connect_lazy(images_);
  send_word(criu_.get(), 0);
  ASSERT_TRUE(until_phase(PagerPhase::failed));
  EXPECT_TRUE(*cgroup_.freeze_requested());
}

TEST_F(PagerProcessTest, AKilledPagerStallsTheWorkloadAndASecondOneGoesOn) {
  constexpr uint64_t kPages = 2000;
  start_pager(kPages, 500, 3600'000);  // remote pages never come from this one
  restore_toy(kPages, [] { return check(0, kPages); });
  finish_restore();
  toy_->go();
  ASSERT_TRUE(cgroup_.thaw());
  ASSERT_TRUE(client_->thawed());
  ASSERT_TRUE(until([&] { return client_->status().progress.remote_faults != 0; }));
  uint32_t guardian = client_->status().guardian_pid;
  ASSERT_TRUE(pager_.signal(SIGKILL));
  ASSERT_TRUE(pager_.reap(std::chrono::seconds(5)));
  EXPECT_TRUE(until([&] { return lost_; })) << "the guardian keeps the dead pager's connection";
  EXPECT_FALSE(PagerClient::connect(socket_));
  EXPECT_EQ(restore::read_guardian_file(socket_)->pid, guardian);
  EXPECT_FALSE(toy_->ended_within(std::chrono::milliseconds(200))) << "a page was made up";

  start_pager(kPages, 500, 1, guardian);
  EXPECT_TRUE(client_->status().adopted);
  EXPECT_EQ(client_->status().phase, PagerPhase::running);
  EXPECT_EQ(toy_->wait(), 0);
  EXPECT_TRUE(guardian_gone(guardian));
  EXPECT_NE(client_->status().guardian_pid, guardian);
}

TEST_F(PagerProcessTest, PagersKilledAgainAndAgain) {
  constexpr uint64_t kPages = 3000;
  start_pager(kPages, 100, 1);
  restore_toy(kPages, [] {
    for (uint64_t i = 0; i < kPages; ++i) {
      ::usleep(50);
      if (!page_is(kHostSalt, kToyPage + i, toy_page(i))) return 1;
      // Gone for good: no pager may bring it back.
      if (i % 3 == 0) ::madvise(toy_page(i), kPageSize, MADV_DONTNEED);
    }
    for (uint64_t i = 0; i < kPages; i += 3)
      if (!page_is_zero(toy_page(i))) return 2;
    return 0;
  });
  finish_restore();
  toy_->go();
  ASSERT_TRUE(cgroup_.thaw());
  ASSERT_TRUE(client_->thawed());
  for (int i = 0; i < 15 && !toy_->ended_within(std::chrono::milliseconds(10)); ++i) {
    uint32_t guardian = restore::read_guardian_file(socket_)->pid;
    ASSERT_TRUE(pager_.signal(SIGKILL));
    ASSERT_TRUE(pager_.reap(std::chrono::seconds(5)));
    start_pager(kPages, 100, 1, guardian);
  }
  EXPECT_EQ(toy_->wait(), 0);
}

TEST_F(PagerProcessTest, AnAbortKeepsTheTreeFrozenAndLeavesWhenItIsDead) {
  start_pager(1000, 100, 3600'000);
  restore_toy(1000, [] { return check(0, 1000); });
  finish_restore();
  uint32_t guardian = client_->status().guardian_pid;
  ASSERT_TRUE(client_->quit(false));
  EXPECT_FALSE(pager_.wait_ended(std::chrono::milliseconds(150))) << "the tree lives";
  EXPECT_TRUE(*cgroup_.frozen());
  ASSERT_TRUE(cgroup_.kill());
  EXPECT_LT(toy_->wait(), 0);
  EXPECT_TRUE(pager_.reap(std::chrono::seconds(5))->success());
  EXPECT_TRUE(guardian_gone(guardian));
}

TEST_F(PagerProcessTest, ARestartedMosedLearnsEverythingByConnecting) {
  start_pager(1000, 100, 3600'000);
  restore_toy(1000, [] { return 0; });
  finish_restore();
  ASSERT_TRUE(until([&] { return client_->status().progress.installed_pages == 100; }));
  connect();
  EXPECT_EQ(client_->status().phase, PagerPhase::fenced);
  EXPECT_TRUE(client_->status().sealed);
  EXPECT_EQ(client_->status().progress.present_pages, 1000u);
  EXPECT_EQ(client_->status().progress.installed_pages, 100u);
}

TEST_F(PagerProcessTest, AKilledGuardianIsReplaced) {
  start_pager(100, 0, 3600'000);
  uint32_t first = client_->status().guardian_pid;
  ASSERT_EQ(::kill(static_cast<pid_t>(first), SIGKILL), 0);
  ASSERT_TRUE(until([&] {
    (void)client_->ask_status();
    return client_->status().guardian_pid != first;
  }));
  EXPECT_EQ(restore::read_guardian_file(socket_)->pid, client_->status().guardian_pid);
}

TEST_F(PagerProcessTest, SignalsAndNonsenseFromMosedsSideDoNotEndIt) {
  start_pager(100, 100, 0);
  for (const char* text : {"\xff\xff\xff\xff", "\x05\0\0\0hello", "\0\0\0\0"}) {
    auto fd = restore::unix_connect(socket_);
    ASSERT_TRUE(fd);
    size_t size = text[0] == '\x05' ? 9 : 4;
    ASSERT_EQ(::send(fd->get(), text, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
    std::string rest;
    EXPECT_TRUE(eventually([&] { return !restore::read_available(fd->get(), rest); })) << "kept the connection";
  }
  connect();
  EXPECT_EQ(client_->status().phase, PagerPhase::listening);
}

TEST_F(PagerProcessTest, AWrongStateIsNotAdopted) {
  start_pager(100, 0, 3600'000);
  uint32_t guardian = client_->status().guardian_pid;
  ASSERT_TRUE(pager_.signal(SIGKILL));
  ASSERT_TRUE(pager_.reap(std::chrono::seconds(5)));
  id_ = MigrationId::random().hex();
  SpawnRequest request;
  request.program = *helper_path("mpager-host");
  request.arguments = {id_, images_, socket_, cgroup_.path(), "7", "100", "0", "1", std::to_string(guardian)};
  auto second = spawn(request);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->reap(std::chrono::seconds(5))->value, 1);
  EXPECT_EQ(::kill(static_cast<pid_t>(guardian), 0), 0) << "the old guardian still holds everything";
}

}  // namespace
}  // namespace mose::test
