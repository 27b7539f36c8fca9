// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"

namespace mose {

// Starting programs from a process with many threads: posix_spawn (a vfork with its own stack) runs no code of ours
// between fork and exec. What must happen there (namespaces, cgroup, mounts, parent-death signal) is done by the helper
// mose-exec: see launch.h.
struct SpawnRequest {
  struct FdMap {
    int ours;    // stays ours
    int theirs;  // its number in the new process
  };
  std::string program;                   // path, not searched for
  std::vector<std::string> arguments;    // argv[1..]
  std::vector<std::string> environment;  // NAME=VALUE added to ours, the last of a name counts
  std::vector<FdMap> fds;                // 0 is /dev/null and 1, 2 are inherited unless named here
  bool new_session = false;
};

// Returns as soon as the program has been exec'ed. All signals are unblocked and default in it, and no descriptor
// but 0, 1, 2 and those named reaches it.
// The child is ours to reap(): no other code of this program may wait for "any child".
[[nodiscard]] Result<ProcessHandle> spawn(const SpawnRequest& request);

// To speak with a child: close-on-exec at both ends.
struct Pipe {
  Fd read, write;
};
[[nodiscard]] Result<Pipe> make_pipe();

// Path of a helper program or library of MOSE: $MOSE_LIBEXEC, else beside the running program, else ../libexec/mose from there.
[[nodiscard]] Result<std::string> helper_path(std::string_view name);

}  // namespace mose
