// SPDX-License-Identifier: MIT
#include "sense/settle.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "kernel/pins.h"
#include "kernel/probe.h"

namespace mose::sense {
namespace {

// For what a device or the kernel has been let at and nothing shows any more.
constexpr Nanoseconds kSettle = std::chrono::milliseconds(1);

}  // namespace

std::optional<std::string> Settle::operator()(std::span<const pid_t> processes) {
  if (calls_) return calls_;
  std::this_thread::sleep_for(kSettle);
  calls_ = wait_for_calls();
  if (calls_) return calls_;
  for (pid_t process : processes) {
    if (auto pin = pinned_memory(process)) return pin;
  }
  return std::nullopt;
}

void Settle::prepare() {
  if (writes_ && *writes_) return;  // what could not be had once may be had in a later round
  const ProbeResult can = probe("bpf-task-iterator");
  writes_ = can.state == ProbeState::yes ? RemoteWrites::shared() : fail(can.detail);
  if (!*writes_) calls_ = "whether another process writes into its memory is not known: " + writes_->error().what;
}

// Those that began before: who is in one at each look.
std::optional<std::string> Settle::wait_for_calls() {
  if (!writes_) prepare();
  if (calls_) return calls_;
  const RemoteWrites& writes = ***writes_;
  auto before = writes.under_way();
  const Timestamp end = now() + calls_max_;
  for (Nanoseconds pause = kSettle; before && !before->empty(); pause = std::min(2 * pause, end - now())) {
    if (now() >= end) return "thread " + std::to_string(*before->begin()) + " of the host writes into other processes' memory (process_vm_writev)";
    std::this_thread::sleep_for(pause);
    auto still = writes.under_way();
    if (!still) return still.error().what;
    std::erase_if(*before, [&](pid_t thread) { return !still->contains(thread); });
  }
  return before ? std::nullopt : std::optional(before.error().what);
}

}  // namespace mose::sense
