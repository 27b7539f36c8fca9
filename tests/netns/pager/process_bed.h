// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>

#include "kernel/cgroup.h"
#include "kernel/spawn.h"
#include "model/migration.h"
#include "netns/pager/support.h"
#include "restore/pager_client.h"
#include "restore/pager_frames.h"
#include "support/support.h"

namespace mose::test {

using restore::PagerClient;
using restore::PagerPhase;

inline constexpr int32_t kVpid = 7;

// A pager process with its cgroup and directory; killed and removed at the end.
class PagerProcessBed : public testing::Test {
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
    auto group = Cgroup::create(*mount + "/mose-test-mpager-" + std::to_string(::getpid()));
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
                         std::to_string(vpid()),
                         std::to_string(pages),
                         std::to_string(remote_from),
                         std::to_string(delay_ms),
                         std::to_string(adopt)};
    if (standby_) request.arguments.emplace_back("standby");
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
    toy_ = std::make_unique<Toy>(criu_.get(), vpid(), pages, std::move(scenario), cgroup_.path(), standby_);
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

  // A standby's process is looked for by its id: process 1 of a namespace of its own.
  int32_t vpid() const { return standby_ ? 1 : kVpid; }

  bool standby_ = false;
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

}  // namespace mose::test
