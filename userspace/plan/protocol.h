// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"

// What both ends of a migration say to each other and write down, as the planner sees it: without payloads. The agent
// attaches payloads (wire.proto) and the simulation delivers, delays and loses these values.
namespace mose::plan {

// Behind a reason that only an operator can mend.
inline constexpr const char* kRecoverHint = "; `mose recover` tries again";

enum class Message : uint8_t {
  // source -> destination
  prepare, images, commit, abort, released,
  // destination -> source
  prepared, refused, ready, failed, committed, complete, aborted,
};
[[nodiscard]] const char* to_string(Message message);

// One durable line of a journal: fsynced before the action counts as done. The last readable record decides.
enum class Record : uint8_t {
  begun,      // both: from here on there is something to clean up
  ready,      // destination: the tree is restored and frozen; only a verdict decides
  commit,     // source: the commit point. destination: the verdict has arrived
  aborted,    // both: the verdict is abort
  complete,   // destination: every page is in
  finished,   // both: nothing is left to do
  lost,       // in place of complete. destination: the tree has ended before every page was in, and nobody needs them now.
              // source: the operator has given the destination up
};
[[nodiscard]] const char* to_string(Record record);
[[nodiscard]] bool contains(const std::vector<Record>& records, Record record);
// What a journal has decided: a commit that no abort has overruled.
[[nodiscard]] bool committed(const std::vector<Record>& records);

// The answer to "how was this migration decided?", asked by a destination whose tree is fenced and whose connection is
// gone. `abort` never changes any more, and `commit` only where the operator of the source has decided in the place of a
// destination that is gone for good.
enum class Verdict : uint8_t { undecided, commit, abort };
[[nodiscard]] const char* to_string(Verdict verdict);

}  // namespace mose::plan
