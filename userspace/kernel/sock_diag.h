// SPDX-License-Identifier: MIT
#pragma once

#include <linux/inet_diag.h>

#include <cstdint>
#include <functional>

#include "base/fd.h"
#include "base/result.h"

namespace mose {

// The kernel's list of TCP sockets of one network namespace, usable from any thread.
class SockDiag {
 public:
  [[nodiscard]] static Result<SockDiag> open(int netns);

  // Every TCP socket of `family` in one of `states` (bits 1 << TCP_*), in the order of the kernel's tables.
  [[nodiscard]] Status each(int family, uint32_t states, const std::function<void(const inet_diag_msg&)>& take) const;
  // Ends every TCP socket, of both families, that is not listening, whoever has it: also those that outlive their
  // process to say goodbye. Says how many; those of a living process send a reset. EOPNOTSUPP without
  // INET_DIAG_DESTROY.
  [[nodiscard]] Result<size_t> destroy_connections() const;

 private:
  explicit SockDiag(Fd socket) : socket_(std::move(socket)) {}
  Fd socket_;
};

}  // namespace mose
