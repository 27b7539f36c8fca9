// SPDX-License-Identifier: MIT
#include "netns/pager/process_bed.h"

namespace mose::test {
namespace {

using restore::PagerEventKind;

constexpr uint64_t kPages = 4000;
constexpr uint64_t kRemoteFrom = 3500;  // never sent before the map
constexpr unsigned kNever = 3600'000;

// A pager process with a standby whose fate the test decides; the tree looks at every page once it runs.
class PagerStandbyProcess : public PagerProcessBed {
 protected:
  void SetUp() override {
    standby_ = true;
    PagerProcessBed::SetUp();
  }
  void start(unsigned delay_ms, uint32_t adopt = 0) { start_pager(kPages, kRemoteFrom, delay_ms, adopt); }
  void begin_standby() {
    ASSERT_TRUE(client_->standby(false));
    ASSERT_TRUE(until([&] { return client_->status().standby.standby; })) << client_->status().standby.refusal;
  }
  // Runs to the fence. A standby's restorer writes to memory, as the kernel does; what it wrote has no future.
  void restore_to_fence(bool writes = true) {
    restore_toy(kPages, [marker = marker_, writes]() -> int {
      if (writes) toy_page(11)[0] = std::byte{1};
      marker->restored = true;
      while (!marker->thawed) ::usleep(100);
      for (uint64_t i = 0; i < kPages; ++i) {
        bool zero = host_fate(i) == HostFate::zero;
        if (zero ? !page_is_zero(toy_page(i)) : !page_is(kHostSalt, kToyPage + i, toy_page(i))) {
          std::fprintf(stderr, "page %lu is wrong\n", i);
          return 1;
        }
      }
      return 0;
    });
    toy_->go();
    ASSERT_TRUE(eventually([&] { return marker_->restored.load(); }));
    finish_restore();
  }
  bool staged() {
    return until([&] { return client_->status().standby.staged; });
  }
  bool refreshed() {
    return until([&] { return client_->status().standby.refreshed; });
  }
  void seal() { std::ofstream(images_ + "/seal") << "x"; }
  void kill_pager_and_adopt(unsigned delay_ms) {
    uint32_t guardian = restore::read_guardian_file(socket_)->pid;
    ASSERT_TRUE(pager_.signal(SIGKILL));
    ASSERT_TRUE(pager_.reap(std::chrono::seconds(5)));
    start(delay_ms, guardian);
    ASSERT_TRUE(client_->status().adopted);
  }
  void thaw() {
    marker_->thawed = true;
    ASSERT_TRUE(cgroup_.thaw());
    ASSERT_TRUE(client_->thawed());
  }
  struct Marker {
    std::atomic<bool> restored, thawed;
  };
  Marker* marker_ =
      static_cast<Marker*>(::mmap(nullptr, sizeof(Marker), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
};

TEST_F(PagerStandbyProcess, IsStagedRefreshedAndRight) {
  start(1);
  begin_standby();
  restore_to_fence();
  ASSERT_TRUE(staged());
  EXPECT_TRUE(saw(PagerEventKind::staged));
  EXPECT_FALSE(client_->status().sealed);
  EXPECT_GE(client_->status().standby.staged_pages, kRemoteFrom - 1);
  seal();
  ASSERT_TRUE(refreshed());
  EXPECT_TRUE(saw(PagerEventKind::refreshed));
  EXPECT_GE(client_->status().standby.refreshed_us, client_->status().standby.sealed_us);
  EXPECT_GE(client_->status().standby.stale_pages, kRemoteFrom / 7 + kRemoteFrom / 7);
  thaw();
  EXPECT_EQ(toy_->wait(), 0);
  (void)client_->ask_status();
  EXPECT_TRUE(until([&] { return !client_->status().standby.standby && client_->status().standby.refreshed; }));
}

TEST_F(PagerStandbyProcess, AThawBeforeRefreshedIsStopped) {
  start(kNever);
  begin_standby();
  restore_to_fence();
  ASSERT_TRUE(staged());
  seal();
  ASSERT_TRUE(until([&] { return client_->status().sealed; }));
  ASSERT_TRUE(client_->thawed());
  ASSERT_TRUE(until_phase(PagerPhase::failed));
  EXPECT_NE(client_->status().reason.find("before it was refreshed"), std::string::npos);
  EXPECT_TRUE(*cgroup_.freeze_requested());
}

TEST_F(PagerStandbyProcess, DroppedAndRestoredTheNormalWay) {
  for (bool after_seal : {false, true}) {
    SCOPED_TRACE(after_seal);
    start(1);
    begin_standby();
    restore_to_fence();
    ASSERT_TRUE(staged());
    if (after_seal) {
      seal();
      ASSERT_TRUE(refreshed());
    }
    std::string next = images_ + "/second";
    std::filesystem::create_directory(next);
    ASSERT_TRUE(client_->standby_dropped(next));
    events_.clear();
    EXPECT_FALSE(eventually([&] { return std::filesystem::exists(next + "/lazy-pages.socket"); },
                            std::chrono::milliseconds(50)));
    ASSERT_TRUE(cgroup_.kill());
    ASSERT_TRUE(until([&] { return saw(PagerEventKind::listening); }));
    EXPECT_EQ(client_->status().phase, PagerPhase::listening);
    EXPECT_FALSE(client_->status().standby.standby);
    EXPECT_EQ(client_->status().progress.spaces, 0u);
    EXPECT_LT(toy_->wait(), 0);
    ASSERT_TRUE(cgroup_.thaw());
    if (!after_seal) seal();
    ASSERT_TRUE(until([&] { return client_->status().sealed; }));
    marker_->restored = marker_->thawed = false;
    std::string first = std::exchange(images_, next);
    restore_to_fence(false);
    EXPECT_FALSE(client_->status().standby.refreshed);
    thaw();
    EXPECT_EQ(toy_->wait(), 0);
    EXPECT_EQ(client_->status().standby.refusal, "");
    ASSERT_TRUE(client_->quit(true));
    EXPECT_TRUE(pager_.reap(std::chrono::seconds(5))->success());
    images_ = first;
    std::filesystem::remove_all(images_);
    std::filesystem::create_directory(images_);
    marker_->restored = marker_->thawed = false;
    events_.clear();
    criu_.reset();
  }
}

TEST_F(PagerStandbyProcess, AFailedRestoreOfAStandbyIsTakenBackByItsDrop) {
  start(1);
  begin_standby();
  restore_toy(kPages, [] { return 0; });
  criu_.reset();
  ASSERT_TRUE(until_phase(PagerPhase::failed));
  ASSERT_TRUE(client_->standby_dropped());
  ASSERT_TRUE(cgroup_.kill());
  ASSERT_TRUE(until_phase(PagerPhase::listening));
  EXPECT_EQ(client_->status().reason, "");
  ASSERT_TRUE(cgroup_.thaw());
  seal();
  ASSERT_TRUE(until([&] { return client_->status().sealed; }));
  restore_to_fence(false);
  thaw();
  EXPECT_EQ(toy_->wait(), 0);
}

TEST_F(PagerStandbyProcess, APagerThatDiesBeforeRefreshedIsReplacedAndNothingIsStale) {
  start(kNever);
  begin_standby();
  restore_to_fence();
  ASSERT_TRUE(staged());
  seal();
  ASSERT_TRUE(until([&] { return client_->status().sealed; }));
  ASSERT_FALSE(eventually([&] { return client_->status().standby.refreshed; }, std::chrono::milliseconds(50)));
  kill_pager_and_adopt(1);
  EXPECT_TRUE(client_->status().standby.standby);
  ASSERT_TRUE(refreshed());
  EXPECT_EQ(client_->status().phase, PagerPhase::fenced);
  EXPECT_EQ(client_->status().progress.unregistered_pages, 0u);
  thaw();
  EXPECT_EQ(toy_->wait(), 0);
}

TEST_F(PagerStandbyProcess, PagersKilledAgainAndAgainAtTheSwitchover) {
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    start(1);
    begin_standby();
    restore_to_fence();
    ASSERT_TRUE(staged());
    seal();
    ASSERT_TRUE(until([&] { return client_->status().sealed; }));
    for (int i = 0; i < 3; ++i) {
      ::usleep(static_cast<useconds_t>((round * 3 + i) * 700));
      kill_pager_and_adopt(1);
    }
    ASSERT_TRUE(refreshed()) << to_string(client_->status().phase) << " " << client_->status().reason;
    kill_pager_and_adopt(1);
    ASSERT_TRUE(refreshed());
    thaw();
    EXPECT_EQ(toy_->wait(), 0);
    ASSERT_TRUE(client_->quit(true));
    EXPECT_TRUE(pager_.reap(std::chrono::seconds(5))->success());
    std::filesystem::remove(images_ + "/seal");
    marker_->restored = marker_->thawed = false;
    id_ = MigrationId::random().hex();
  }
}

TEST_F(PagerStandbyProcess, AnAdoptedStandbyCanBeDropped) {
  start(kNever);
  begin_standby();
  restore_to_fence();
  ASSERT_TRUE(staged());
  seal();
  ASSERT_TRUE(until([&] { return client_->status().sealed; }));
  kill_pager_and_adopt(1);
  ASSERT_TRUE(client_->standby_dropped());
  ASSERT_TRUE(cgroup_.kill());
  ASSERT_TRUE(until_phase(PagerPhase::listening));
  toy_.reset();
  ASSERT_TRUE(cgroup_.thaw());
  marker_->restored = false;
  restore_to_fence(false);
  thaw();
  EXPECT_EQ(toy_->wait(), 0);
}

TEST_F(PagerStandbyProcess, WhatComesAtTheWrongTimeIsRefusedAndChangesNothing) {
  start(1);
  ASSERT_TRUE(client_->standby_dropped());
  ASSERT_TRUE(until([&] { return client_->status().standby.refusal == "there is no standby"; }));
  seal();
  ASSERT_TRUE(until([&] { return client_->status().sealed; }));
  ASSERT_TRUE(client_->standby(false));
  ASSERT_TRUE(until([&] { return client_->status().standby.refusal == "the final page map is here already"; }));
  restore_to_fence(false);
  ASSERT_TRUE(client_->standby(false));
  ASSERT_TRUE(until([&] { return client_->status().standby.refusal == "CRIU has connected already"; }));
  thaw();
  EXPECT_EQ(toy_->wait(), 0);
  ASSERT_TRUE(client_->standby_dropped());
  ASSERT_TRUE(until([&] { return client_->status().standby.refusal == "the tree runs"; }));
}

}  // namespace
}  // namespace mose::test
