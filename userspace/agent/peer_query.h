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

// What a node has of a migration, as it answers on a QUERY connection.
struct MigrationRecord {
  plan::Verdict verdict = plan::Verdict::undecided;  // its own; of a destination: what it has heard
  bool tells = true;            // false: its agent is of a version that says no more than the verdict
  std::string record;           // the last one of its journal; empty: there is none
  bool unreadable = false;      // there is a journal, and it cannot be used
  int64_t recorded_unix_ms = 0;
  std::string phase;            // empty: nothing is under way
  std::string outcome;          // of its history; empty: nothing is there
};
// Blocking: asks the other node of a migration how it was decided, and what it has of it.
[[nodiscard]] Result<MigrationRecord> ask_record(const PeerAccess& peers, const JournalMeta& meta, move::Hello hello, Nanoseconds bound);
// Blocking: tells a destination to throw away what it has, and waits until it has. It never runs there after that.
[[nodiscard]] Status ask_to_abort(const PeerAccess& peers, const JournalMeta& meta, const move::Hello& hello, Nanoseconds bound,
                                  const std::string& reason);
// Blocking: for each of `peers`, by name, whether it could be asked for a migration now; all at the same time.
[[nodiscard]] std::map<std::string, Status> look_at_peers(const PeerAccess& access, const std::map<std::string, PeerConfig>& peers,
                                                          const move::Hello& hello, Nanoseconds bound);
[[nodiscard]] std::string encode_record(const MigrationRecord& record);

// Bytes as hex text and back, for values that stand in a journal.
[[nodiscard]] std::string to_hex(const std::string& bytes);
[[nodiscard]] Result<std::string> from_hex(const std::string& text);

}  // namespace mose::agent
