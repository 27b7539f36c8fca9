// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>

#include "agent/journal.h"
#include "agent/peer_access.h"
#include "base/result.h"
#include "move/hello.h"
#include "plan/protocol.h"

namespace mose::agent {

// Blocking: a CONTROL connection to a migration's peer, HELLO both ways done. Refuses a peer that is another node, may not
// take workloads, is another kind of machine, or lacks CPU features that programs started here may use.
struct PeerLink {
  move::StreamSocket socket;
  std::string own_endpoint;  // our address and port on it: how the peer reaches this node
};
// Roles are asked for when a migration begins. Afterwards it must end, whatever they are by then.
enum class AskRoles : uint8_t { yes, no };
[[nodiscard]] Result<PeerLink> connect_to_peer(const PeerAccess& peers, const JournalMeta& meta, move::Hello hello, Nanoseconds bound,
                                               AskRoles ask = AskRoles::yes);

// Blocking: asks the source of a migration, on a QUERY connection, how it was decided.
[[nodiscard]] Result<plan::Verdict> ask_verdict(const PeerAccess& peers, const JournalMeta& meta, move::Hello hello, Nanoseconds bound);
// Blocking: for each of `peers`, by name, whether it could be asked for a migration now; all at the same time.
[[nodiscard]] std::map<std::string, Status> look_at_peers(const PeerAccess& access, const std::map<std::string, PeerConfig>& peers,
                                                          const move::Hello& hello, Nanoseconds bound);
[[nodiscard]] std::string encode_verdict(plan::Verdict verdict);

// Bytes as hex text and back, for values that stand in a journal.
[[nodiscard]] std::string to_hex(const std::string& bytes);
[[nodiscard]] Result<std::string> from_hex(const std::string& text);

}  // namespace mose::agent
