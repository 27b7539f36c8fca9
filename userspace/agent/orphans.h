// SPDX-License-Identifier: MIT
#pragma once

#include <set>
#include <string>
#include <vector>

#include "agent/config.h"
#include "base/clock.h"
#include "base/result.h"
#include "model/workload.h"

// What is on this node of workloads and migrations that no record, no journal and nobody in this agent knows any more: a tree in its
// cgroup, its devices and pins, a pager with a workload's memory, images. It comes to be where a record was lost or taken away.
namespace mose::agent {

// What is somebody's: never looked at.
struct OrphanClaims {
  std::set<std::string> migrations;  // ids
  std::set<std::string> workloads;   // names
  bool packets_held = false;         // of a workload that is here: who keeps them may be named in any migration's directory
};

struct Orphans {
  std::vector<std::string> migrations;  // ids whose directory is there
  std::vector<std::string> workloads;
  std::string left_alone;  // a sentence: why not all of them are named; empty: they are
  [[nodiscard]] bool empty() const { return migrations.empty() && workloads.empty(); }
};

// Blocking. With what journals and records on the disk claim, readable or not.
[[nodiscard]] Orphans find_orphans(const Config& config, const OrphanClaims& claims);
// What is claimed by now is no orphan any more.
void drop_claimed(Orphans& orphans, const OrphanClaims& claims);
// A line for each, as an operator reads it before it is removed.
[[nodiscard]] std::vector<std::string> describe(const Config& config, const Orphans& orphans);
// Blocking; a line for each thing done, or not done and why. A pager whose workload still has a process stays, whoever's it is:
// without it the kernel would hand out zero pages.
[[nodiscard]] std::vector<std::string> remove_orphans(const Config& config, const Orphans& orphans, bool packets_held);

// What both do that is done to an orphan, also for a migration that an operator gives up without its journal. Blocking.
// Processes, cgroup, network and pins. Its workload may run elsewhere, with the same connections: nothing of what the kernel says for processes
// that are killed reaches its clients. `bound` for them to go.
[[nodiscard]] Status discard_workload(const Config& config, const WorkloadSpec& spec, Nanoseconds bound);
// Whether a tree that has arrived here can have answered anybody: what it sends is held, or shut, until it is committed. True where that
// cannot be seen.
[[nodiscard]] bool may_have_answered(const Config& config, const std::string& name);
// Pager and guardian, whoever keeps packets, images. Returns how many pagers and guardians that were; fails, and has done nothing, where they are
// still needed.
[[nodiscard]] Result<size_t> discard_migration(const Config& config, const std::string& id, bool packets_held);

}  // namespace mose::agent
