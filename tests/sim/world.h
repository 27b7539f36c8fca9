// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/protocol.h"
#include "plan/source.h"

// The truth that outlives agents: what runs where, which way out is open, what is on the disks. Both trees are one
// workload: whatever the agents do, and wherever they die, what check() says must stay empty.
namespace mose::sim {

enum class Tree : uint8_t {
  absent,  // destination only: nothing of it, or killed
  running,
  held,    // stopped by nothing but CRIU's ptrace: runs, or is gone, when CRIU dies
  frozen,  // by its cgroup: stays so whoever dies
  killed,  // source only
};
const char* to_string(Tree tree);

struct World {
  // Source node.
  Tree source = Tree::running;
  bool source_egress = true;   // packets of the source leave
  bool source_repair = false;  // its sockets were left in repair mode: it runs, and serves nobody
  bool source_dumper = false;  // a swrk has the source tree, or waits for it
  bool source_was_stopped = false;
  bool source_slowed = false;  // a process freezes and thaws it in turns, and would thaw what others have frozen
  std::vector<plan::Record> source_journal;

  // Destination node.
  Tree destination = Tree::absent;
  bool destination_egress = false;
  bool prepared = false;  // namespaces, pager and guardian exist
  std::vector<plan::Record> destination_journal;

  // Memory.
  bool map_out = false;         // the pager knows the final page map
  bool pages_complete = false;  // the pager has every page
  bool memory_first = false;    // and must have it before the tree may be called ready
  uint64_t pages_left = 0;      // that the destination does not have yet, and
  uint64_t pages_left_max = UINT64_MAX;  // how many that may be at the commit

  [[nodiscard]] bool source_serves() const {
    return source == Tree::running && source_egress && !source_repair && !source_slowed;
  }
  // The verdict that a start of the source's agent would find.
  [[nodiscard]] plan::Verdict journalled_verdict() const;
  // The invariant that is broken now; empty: none.
  [[nodiscard]] std::string check() const;
  [[nodiscard]] std::string describe() const;
};

}  // namespace mose::sim
