// SPDX-License-Identifier: MIT
#include "sense/settle.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "kernel/pins.h"
#include "kernel/remote_writes.h"

namespace mose::sense {
namespace {

// For what a device or the kernel has been let at and nothing shows any more.
constexpr Nanoseconds kSettle = std::chrono::milliseconds(1);
// For calls into the memory: 4 MiB at a time take a millisecond, where nothing keeps them.
constexpr Nanoseconds kCallsMax = std::chrono::milliseconds(50);

}  // namespace

Settle::Settle() = default;
Settle::~Settle() = default;

std::optional<std::string> Settle::operator()(std::span<const pid_t> processes) {
  if (!std::exchange(prepared_, true)) {
    if (auto writes = RemoteWrites::prepare()) {
      writes_ = std::make_unique<RemoteWrites>(std::move(*writes));
    } else {
      log::warn("whether another process writes into the memory that is tracked is not known", {{"reason", writes.error().what}});
    }
  }
  const Timestamp end = now() + kCallsMax;
  for (Nanoseconds pause = kSettle;; pause = std::min(2 * pause, end - now())) {
    std::this_thread::sleep_for(pause);
    if (!writes_) break;
    auto writer = writes_->into(processes);
    if (!writer) return writer.error().what;
    if (!*writer) break;
    if (now() >= end) return "thread " + std::to_string(**writer) + " of the host writes into its memory (process_vm_writev)";
  }
  for (pid_t process : processes) {
    if (auto pin = pinned_memory(process)) return pin;
  }
  return std::nullopt;
}

}  // namespace mose::sense
