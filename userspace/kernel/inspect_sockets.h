// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/result.h"
#include "kernel/process.h"

namespace mose {

// Inode of a unix socket -> inode of the one it is connected to (absent: connected to none), of one network namespace.
using UnixPeers = std::map<uint64_t, std::optional<uint64_t>>;
[[nodiscard]] Result<UnixPeers> unix_peers(int netns);

// What a socket of another process is, asked through a duplicate that is closed at once.
struct SocketFacts {
  int family = 0, type = 0, protocol = 0;
  bool same_netns = true;
};
[[nodiscard]] Result<SocketFacts> socket_facts(const ProcessHandle& process, int fd, int netns);

}  // namespace mose
