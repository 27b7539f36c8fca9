// SPDX-License-Identifier: MIT
#pragma once

#include <linux/capability.h>
#include <sys/types.h>

#include "base/result.h"

// Who connected a unix socket, as the kernel noted it at that moment. What the process may do is asked of it now: it may have given
// privileges up since, and cannot have gained any that it did not have a way to.
namespace mose {

struct SocketPeer {
  uid_t uid = 0;
  gid_t gid = 0;
  pid_t pid = 0;  // 0: in a pid namespace that ours does not see, so that neither we nor what we started has started it
};
[[nodiscard]] Result<SocketPeer> socket_peer(int socket);

// Whether the process has `capability` (of linux/capability.h) in effect over this machine, and not in a user namespace of its own,
// where everybody has all of them. Fails when that cannot be told: it has ended, and its number may be another's.
[[nodiscard]] Result<bool> peer_is_capable(int socket, const SocketPeer& peer, int capability);

}  // namespace mose
