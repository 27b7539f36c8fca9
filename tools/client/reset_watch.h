// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

#include "base/fd.h"
#include "base/result.h"

// TCP resets that arrive in our network namespace, for whatever connection. The kernel's TCP counts those that it
// sends, but none that it receives.
namespace mose::client {

class ResetWatch {
 public:
  // Needs CAP_NET_RAW. IPv4, all devices.
  [[nodiscard]] static Result<ResetWatch> open();
  // Since the last call; absent when the kernel does not say.
  [[nodiscard]] std::optional<uint64_t> take();

 private:
  explicit ResetWatch(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
};

}  // namespace mose::client
