// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "model/migration.h"

// What `mose recover` does about a migration, from what both sides have of it: shown to the operator before it is done. Pure:
// no I/O and no clock.
//
// Nothing runs, or is told to run, where it is not certain that the other side does not: then the operator has to find out what
// is missing, and to say with one of two wishes what it comes to.
namespace mose::agent {

// This node's part. `under_way`: it is carried out, from its journal.
enum class OwnJournal : uint8_t { under_way, readable, unreadable, gone };

// What the other node has answered.
enum class PeerSays : uint8_t {
  unreachable,  // nothing
  too_old,      // it is of a version that does not tell
  nothing,      // no journal, and nothing in its history
  unreadable,   // it has a journal that cannot be used
  undecided,    // it has begun, or waits for the verdict: nothing of it runs there
  committed,    // destination: it has been told to run there. source: the commit stands
  complete,     // all of it is there
  lost,         // it has ended there before its memory was complete, or was given up
  aborted,      // it never runs there (destination); it went on, or stays, at the source (source)
};
[[nodiscard]] const char* to_string(PeerSays says);

enum class RecoveryWish : uint8_t { none, resume, give_up };
inline constexpr const char* kWishResume = "resume-here";
inline constexpr const char* kWishGiveUp = "give-up";

struct RecoverySides {
  MigrationId id;
  Role role = Role::source;  // of this node
  std::string node, peer;    // names; peer empty: not known
  std::string workload;      // empty: none here is part of it
  OwnJournal journal = OwnJournal::under_way;
  PeerSays peer_says = PeerSays::unreachable;
  bool before_commit = false;  // under way: it can be cancelled
  bool committed = false;      // the verdict of this node's journal
  bool has_run_there = false;  // source: the destination has said so once
  bool waiting = false;        // source: for its destination, after the commit. destination: for the verdict
  bool connected = false;      // source: with it
  bool pager_connected = false;  // source: a connection of the destination's pager has not been seen to end
  bool tree_here = false, tree_frozen = false;
  std::string phase;           // under way: in the operator's words
};

enum class RecoveryAction : uint8_t {
  none,     // it goes on by itself, or there is nothing that can be done here
  go_on,    // from its journal
  resume,   // a durable abort, then the workload runs here
  end,      // a durable end, then what is stopped here is killed
  discard,  // destination: what has arrived is thrown away
  forget,   // nothing of it is here
  refuse,   // nothing is known for sure, or the wish would be wrong
};
[[nodiscard]] const char* to_string(RecoveryAction action);

struct RecoveryChoice {
  RecoveryAction action = RecoveryAction::none;
  bool certain = true;  // by what both sides have; else by the operator's word alone
  std::string what;     // is done, or why nothing is
  std::string warning;  // what must be true for it; empty: nothing
  // The destination is to throw away what it has first, and to say so.
  bool abort_there_first = false;
};
[[nodiscard]] RecoveryChoice choose_recovery(const RecoverySides& sides, RecoveryWish wish);
// The peer of a source is there and will answer the same for ever: that it has nothing of it, or has thrown away what had run there.
[[nodiscard]] bool has_nothing(const RecoverySides& sides);
// Of a journal that could not be used when the agent started, and can be now: whether it is gone on from without an operator. It may be an
// old one that was put back, so that the other side has to have said what it has, and not the contrary.
[[nodiscard]] bool goes_on_alone(const RecoverySides& sides);
// Nothing is changed by it, and nobody has to agree.
[[nodiscard]] bool harmless(RecoveryAction action);

}  // namespace mose::agent
