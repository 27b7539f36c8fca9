// SPDX-License-Identifier: MIT
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "restore/guardian.h"
#include "netns/pager/process_bed.h"

namespace mose::test {
namespace {

using PagerProcessTest = PagerProcessBed;

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
  EXPECT_TRUE(restore::pager_lives(restore::read_guardians(socket_).value()));
  ASSERT_TRUE(pager_.signal(SIGKILL));
  ASSERT_TRUE(pager_.reap(std::chrono::seconds(5)));
  EXPECT_FALSE(restore::pager_lives(restore::read_guardians(socket_).value()));
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

// Whoever connects takes mosed's place: it must be root.
TEST_F(PagerProcessTest, AnotherUserIsNotListenedTo) {
  start_pager(100, 100, 0);
  ASSERT_EQ(::chmod(directory_.c_str(), 0755), 0);
  ASSERT_EQ(::chmod(socket_.c_str(), 0777), 0);
  const pid_t stranger = ::fork();
  if (stranger == 0) {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    auto fd = restore::unix_connect(socket_);
    if (!fd) ::_exit(3);
    char byte;
    pollfd ended{fd->get(), POLLIN, 0};
    ::_exit(::poll(&ended, 1, 5000) == 1 && ::read(fd->get(), &byte, 1) <= 0 ? 0 : 4);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(stranger, &status, 0), stranger);
  EXPECT_EQ(status, 0);
  events_.clear();
  ASSERT_TRUE(client_->ask_status());
  EXPECT_TRUE(until([&] { return saw(restore::PagerEventKind::status); })) << "mosed has lost its place";
  EXPECT_FALSE(lost_);
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
