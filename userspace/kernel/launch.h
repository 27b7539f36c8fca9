// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "kernel/process.h"
#include "kernel/spawn.h"

namespace mose {

// What mose-exec does before it becomes the program. Everything is optional; descriptors are borrows, -1 means "stay".
//
// Bind sources are opened in the caller's mount namespace, before any other is entered: a path means what it means to
// the caller, even when the new namespace hides it.
struct LaunchRequest {
  int net_fd = -1, ipc_fd = -1, uts_fd = -1, time_fd = -1, mnt_fd = -1;
  int cgroup_fd = -1;            // directory of the cgroup to join first
  bool private_mounts = false;   // a mount namespace of its own (a copy of the entered one), nothing propagates
  std::vector<std::string> tmpfs;
  struct Bind {
    std::string source, target;  // the target is created when it is missing
    bool read_only = false;
  };
  std::vector<Bind> binds;
  int send_mounts_fd = -1;       // unix socket: gets one byte with a descriptor of the program's mount namespace
  // Signal when the *thread* that called launch() ends: call it from a thread that lives as long as the program should.
  // (A thread that ends before the helper has asked is replaced by another one of this process.)
  int parent_death_signal = 0;
  std::string directory;
  SpawnRequest command;
};
[[nodiscard]] Result<ProcessHandle> launch(const LaunchRequest& request);

// A workload in pid and mount namespaces of its own, with nothing in its mount namespace but the root, /proc and the
// declared mounts; standard input is /dev/null, output goes to `log` (a path inside, appended).
struct WorkloadLaunch {
  int net_fd = -1, ipc_fd = -1, uts_fd = -1;
  int cgroup_fd = -1;
  std::string root;               // directory or mount point; bound (not recursively)
  bool root_read_only = true;
  bool all_capabilities = false;  // also those by which it reaches the node in spite of its namespaces
  std::vector<LaunchRequest::Bind> binds;  // target is a path in the workload and must exist there
  std::string log;
  std::string directory = "/";
  std::vector<std::string> command;        // argv, argv[0] is the path of the program inside the root
  std::vector<std::string> environment;    // the whole environment
};
// Returns the workload's first process (pid 1 of its namespace), already exec'ed. It is nobody's child but init's (or of
// the nearest child subreaper): watch it by its handle.
[[nodiscard]] Result<ProcessHandle> launch_workload(const WorkloadLaunch& request, Nanoseconds bound);

}  // namespace mose
