// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "netns/pager/support.h"
#include "restore/lazy_socket.h"
#include "restore/pager.h"

namespace mose::test {

// A pager in this process, fed through a real lazy socket. Its threads start with the first use of pager() or
// take_tasks(): a toy that is forked before that may use threads and memory as it likes.
class PagerRig {
 public:
  explicit PagerRig(PageProvider& provider, restore::PagerPolicy policy = {})
      : provider_(provider), policy_(policy) {
    char name[] = "/tmp/mpager-XXXXXX";
    directory_ = ::mkdtemp(name);
    lazy_ = std::make_unique<restore::LazySocket>(std::move(*restore::LazySocket::listen(directory_)));
    criu_ = connect_lazy(directory_);
    state_ = std::move(*restore::PagerState::create(MigrationId::random()));
  }
  ~PagerRig() {
    pager().stop();
    pager().close_all();
    std::filesystem::remove_all(directory_);  // with the socket, of which listen_again() leaves one
  }
  // Takes in `tasks` userfaultfds.
  void take_tasks(size_t tasks) {
    for (size_t got = 0; got < tasks;)
      for (auto& message : lazy_->receive())
        if (auto* task = std::get_if<restore::LazySocket::Task>(&message)) {
          ASSERT_TRUE(pager().add_task(task->space, std::move(task->uffd)));
          ++got;
        }
  }
  // The one task, restored, and on its way.
  void run(Toy& toy) {
    take_tasks(1);
    toy.wait_registered();
    pager().restore_ended();
    pager().running();
    toy.go();
  }
  int criu() const { return criu_.get(); }
  // Whose memory a standby's pages are rewritten in.
  void stands_by(pid_t pid) { standby_pid_ = pid; }
  // CRIU connects again.
  void listen_again() {
    lazy_ = std::make_unique<restore::LazySocket>(std::move(*restore::LazySocket::listen(directory_)));
    criu_ = connect_lazy(directory_);
  }
  bool staged() const { return staged_; }
  bool refreshed() const { return refreshed_; }
  bool dropped() const { return dropped_; }
  bool offers() const { return offers_; }
  void expect_failures() { failures_expected_ = true; }
  restore::Pager& pager() {
    if (!pager_)
      pager_ = std::move(*restore::Pager::start(*state_, provider_, policy_,
                                                {.on_complete = [this] { completed_ = true; },
                                                 .on_failure = [this](const Error& e) { failed(e); },
                                                 .open_memory = [this](SpaceId) { return open_memory(); },
                                                 .on_staged = [this] { staged_ = true; },
                                                 .on_refreshed = [this] { refreshed_ = true; },
                                                 .on_stale = [this] { offers_ = true; },
                                                 .on_dropped = [this] { dropped_ = true; }}));
    return *pager_;
  }
  restore::PagerState& state() { return *state_; }
  bool completed() const { return completed_; }
  int failures() const { return failures_; }
  bool wait_complete() {
    return eventually([this] { return completed_.load(); });
  }

 private:
  void failed(const Error& error) {
    ++failures_;
    if (!failures_expected_) ADD_FAILURE() << error.what;
  }
  Result<restore::SpaceMemory> open_memory() const {
    restore::SpaceMemory out;
    MOSE_ASSIGN(out.process, ProcessHandle::open(standby_pid_));
    MOSE_ASSIGN(out.memory, open_file("/proc/" + std::to_string(standby_pid_) + "/mem", O_RDWR));
    return out;
  }

  PageProvider& provider_;
  restore::PagerPolicy policy_;
  pid_t standby_pid_ = -1;
  std::atomic<bool> staged_{false}, refreshed_{false}, dropped_{false}, offers_{false}, failures_expected_{false};
  std::string directory_;
  std::unique_ptr<restore::LazySocket> lazy_;
  Fd criu_;
  std::unique_ptr<restore::PagerState> state_;
  std::unique_ptr<restore::Pager> pager_;
  std::atomic<bool> completed_{false};
  std::atomic<int> failures_{0};
};

}  // namespace mose::test
