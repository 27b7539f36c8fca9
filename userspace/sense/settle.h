// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "kernel/remote_writes.h"

namespace mose::sense {

// Between protecting pages and reading them. Whoever took hold of pages before the protection, a device or another process,
// writes them behind the page tables: either that is over before they are read, or its cause is seen now. A call like
// process_vm_writev() may be kept from going on for long, by its own memory or by a busy machine, so time alone proves nothing.
class Settle {
 public:
  // `calls_max`: for calls into the memory, of which 4 MiB take a millisecond where nothing keeps them.
  explicit Settle(Nanoseconds calls_max = std::chrono::milliseconds(50)) : calls_max_(calls_max) {}

  // Does what takes time and need not be done between protecting and reading. Where it fails nobody is trusted until begin_round().
  void prepare();
  // What was said of the round before about calls into the memory counts no more.
  void begin_round() { calls_.reset(); }
  // Why nobody's pages can be trusted in this round, as far as known.
  [[nodiscard]] const std::optional<std::string>& refused() const { return calls_; }
  // Waits for what goes by. Why pages of these processes may still be written so; nothing: they may be read.
  [[nodiscard]] std::optional<std::string> operator()(std::span<const pid_t> processes);

 private:
  [[nodiscard]] std::optional<std::string> wait_for_calls();

  Nanoseconds calls_max_;
  std::optional<Result<std::shared_ptr<const RemoteWrites>>> writes_;  // once asked for, and why they cannot be seen
  std::optional<std::string> calls_;
};

}  // namespace mose::sense
