// SPDX-License-Identifier: MIT
#include "agent/throttle.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>

#include "base/log.h"
#include "kernel/probe.h"
#include "kernel/spawn.h"

namespace mose::agent {
namespace {

constexpr const char* kProgram = "mose-throttle";
constexpr int kGroupInThrottle = 3;
// It answers within a millisecond, on a busy machine within some time slices of others.
constexpr Nanoseconds kLiftBound = std::chrono::seconds(1);
constexpr Nanoseconds kKillBound = std::chrono::seconds(1);
constexpr size_t kWordsMax = 64;  // one number

}  // namespace

Status can_throttle() {
  auto refused = [](const std::string& why) {
    return fail(fmt::format("a workload cannot be slowed down on this host: {}; leave --auto-converge out", why));
  };
  ProbeResult freezer = probe("cgroup-freezer");
  if (freezer.state != ProbeState::yes) return refused(freezer.detail);
  if (auto helper = helper_path(kProgram); !helper) return refused(helper.error().what);
  return {};
}

Throttle::~Throttle() {
  if (auto lifted = lift(); !lifted) {
    log::error("a workload may stay slowed down", {{"cgroup", group_.path()}, {"reason", lifted.error().what}});
  }
}

Status Throttle::start() {
  MOSE_ASSIGN(Pipe orders, make_pipe());
  MOSE_ASSIGN(Pipe words, make_pipe());
  SpawnRequest request;
  MOSE_ASSIGN(request.program, helper_path(kProgram));
  request.fds = {{orders.read.get(), STDIN_FILENO}, {words.write.get(), STDOUT_FILENO}, {group_.fd(), kGroupInThrottle}};
  request.new_session = true;  // signals to the agent's group are not for it
  MOSE_ASSIGN(process_, spawn(request));
  orders_ = std::move(orders.write);
  words_ = std::move(words.read);
  return {};
}

Result<ProcessHandle> Throttle::set(unsigned percent) {
  MOSE_TRY(lift_dead());
  if (!process_) MOSE_TRY(start());
  const char order = static_cast<char>(percent);
  if (auto given = write_all(orders_.get(), {&order, 1}); !given) {
    (void)lift();
    return context("slow the workload down", std::move(given).error());
  }
  return process_.share();
}

Status Throttle::lift() {
  if (process_) {
    orders_.reset();
    auto exit = process_.reap(kLiftBound);
    if (!exit && exit.error().code == ETIMEDOUT) {
      (void)process_.signal(SIGKILL);
      exit = process_.reap(kKillBound);
      // One that is still there may yet write its thaw, in the middle of a freeze of ours.
      if (!exit && exit.error().code == ETIMEDOUT) return context(std::string("end ") + kProgram, std::move(exit).error());
    }
    process_ = {};
    if (exit && exit->success()) {
      add_time();
    } else {
      thaw_due_ = true;
      stood_still_.reset();
      log::warn("what slowed a workload down has not ended as it should",
                {{"cgroup", group_.path()}, {"how", exit ? describe(*exit) : exit.error().what}});
    }
    words_.reset();
  }
  return thaw_due_ ? thaw() : Status{};
}

Status Throttle::lift_dead() {
  return thaw_due_ || (process_ && !process_.alive()) ? lift() : Status{};
}

Status Throttle::thaw() {
  auto thawed = group_.thaw();
  // A group that has been removed holds nothing.
  if (!thawed && thawed.error().code != ENOENT && thawed.error().code != ENODEV) return thawed;
  thaw_due_ = false;
  return {};
}

void Throttle::add_time() {
  auto text = read_all(words_.get(), kWordsMax);
  uint64_t microseconds = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), microseconds).ec != std::errc{}) {
    return stood_still_.reset();
  }
  if (stood_still_) *stood_still_ += std::chrono::microseconds(microseconds);
}

}  // namespace mose::agent
