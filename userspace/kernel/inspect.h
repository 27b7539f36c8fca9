// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "kernel/process.h"
#include "model/page_set.h"

namespace mose {

// What binds a running tree to its host: things that a dump cannot take along, or that other processes hold the other
// end of. Found by looking only; nothing is stopped, so that the picture of a busy tree is a moment's.
enum class TieKind : uint8_t {
  terminal,        // a tty
  pipe,            // a pipe or fifo with an end outside
  unix_socket,     // connected to a socket outside
  foreign_socket,  // of another network namespace, or of a family that cannot be moved
  io_uring,
  userfaultfd,
  device,              // character or block device that is not null, zero, full, random, urandom
  special_descriptor,  // perf, bpf, fanotify, ...
  outside_file,        // open or mapped, from a mount that the workload does not have
  shared_memory,       // without a file (memfd, shared anonymous, System V), and a process outside has it too
  sealed_memory,       // a memfd that nobody may write to
  odd_memory,          // of a kind that only its own process can make: secret, asynchronous I/O, drivers
  hugetlb,
  locked_memory,  // more of it than kLockedPagesMax
  undeclared_mount,
  sysv_object,         // a semaphore set, a message queue
  unattached_segment,  // of System V, which no process has: nobody would bring its contents
  foreign_process,   // in the workload's cgroup, not of its tree
  strayed_process,   // of its tree, not in its cgroup
  nested_namespace,  // a process with a namespace of its own that its first process does not share
  traced,            // by a debugger
};

struct Tie {
  TieKind kind;
  pid_t pid = 0;        // on the host; 0: of the workload as a whole
  std::string command;  // of the process
  int fd = -1;          // -1: no descriptor
  std::string thing;    // "/dev/pts/3", "pipe:[123] (other end: bash, pid 77)"
};

struct InspectRequest {
  const ProcessHandle* init = nullptr;
  std::string cgroup;                        // absolute path; empty: not looked at
  std::vector<std::string> declared_mounts;  // targets; "/" and "/proc" are always known
};
// Locked memory cannot come later: it is carried in the images of the switchover, while the workload stands still.
inline constexpr uint64_t kLockedPagesMax = (64ull << 20) / kPageSize;
inline constexpr size_t kTiesMax = 64;  // what is found beyond is left out
[[nodiscard]] Result<std::vector<Tie>> inspect_ties(const InspectRequest& request);

}  // namespace mose
