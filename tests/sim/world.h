// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "plan/protocol.h"
#include "plan/source.h"
#include "sim/disk.h"

// The truth that outlives agents: what runs where, which way out is open, what is on the disks. Both trees are one
// workload: whatever the agents do, and wherever they die, what check() says must stay empty.
namespace mose::sim {

enum class Tree : uint8_t {
  absent,  // destination only: nothing of it, or killed
  running,
  held,    // stopped by nothing but CRIU's ptrace: runs, or is gone, when CRIU dies
  frozen,  // by its cgroup: stays so whoever dies
  killed,  // source only: by its agent
  lost,    // with the power of its node
};
const char* to_string(Tree tree);

// What a node keeps beside its journals, each replaced as a whole and synced: durable at once, or not at all.
struct Registry {
  bool busy = false;               // the workload is moving, or arriving
  bool busy_on_disk = false;       // as an agent after this one would find it
  std::optional<Outcome> history;  // of the migration, once it has ended here
};

struct World {
  explicit World(Bench& bench) : source_disk(bench, Side::source), destination_disk(bench, Side::destination) {}

  // Source node.
  Tree source = Tree::running;
  bool source_egress = true;   // packets of the source leave
  bool source_repair = false;  // its sockets were left in repair mode: it runs, and serves nobody
  bool source_dumper = false;  // a swrk has the source tree, or waits for it
  bool source_was_stopped = false;
  bool source_slowed = false;  // a process freezes and thaws it in turns, and would thaw what others have frozen
  SimulatedDisk source_disk;
  Registry source_registry;

  // Destination node.
  Tree destination = Tree::absent;
  bool destination_egress = false;
  bool prepared = false;  // namespaces, pager and guardian exist
  SimulatedDisk destination_disk;
  Registry destination_registry;
  bool has_run = false;  // there: clients may have had answers of it
  bool noted_that_it_ran = false;  // and that is on the source's disk: not even its operator may let the state of the past run
  unsigned killed_fenced = 0;  // it was killed while it waited for its verdict

  // Memory.
  bool map_out = false;         // the pager knows the final page map
  bool pages_complete = false;  // the pager has every page
  bool complete_once = false;   // so it was, whatever has become of it
  bool decided_here = false;    // the source's operator has decided in the place of a destination that is gone
  bool given_up = false;        // the tree has ended at the destination after the commit, with its node or by its operator's hand
  bool memory_first = false;    // and must have it before the tree may be called ready
  uint64_t pages_left = 0;      // that the destination does not have yet, and
  uint64_t pages_left_max = UINT64_MAX;  // how many that may be at the commit

  [[nodiscard]] bool source_serves() const {
    return source == Tree::running && source_egress && !source_repair && !source_slowed;
  }
  // What nothing can take back any more: the last that was durable, also when the journal is gone at its end.
  [[nodiscard]] plan::Verdict journalled_verdict();
  [[nodiscard]] bool taken_back() const { return taken_back_; }
  // The invariant that is broken now; empty: none.
  [[nodiscard]] std::string check();
  [[nodiscard]] std::string describe();

 private:
  plan::Verdict verdict_ = plan::Verdict::undecided;  // of the disk's versions below
  bool commit_readable_ = false;                      // the next agent of the source would find a commit
  bool taken_back_ = false;
  SimulatedDisk::Versions seen_{0, 0};
};

}  // namespace mose::sim
