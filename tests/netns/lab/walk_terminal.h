// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "kernel/process.h"
#include "lab/child_process.h"

namespace mose::test {

// A shell that somebody has open on a machine: variables and jobs stay from one block to the next, and a command that fails
// ends it.
//
// Life: open() starts it; it ends with the object, or with its machine.
class WalkTerminal {
 public:
  struct Where {
    const lab::Place* place = nullptr;
    std::string cgroup;     // empty: ours
    std::string directory;  // it begins there
    std::string path;       // PATH
  };
  [[nodiscard]] static Result<std::unique_ptr<WalkTerminal>> open(const Where& where);
  ~WalkTerminal();

  struct Said {
    bool ended = false;  // a command failed, or it took longer than `bound`
    std::string text;    // both outputs as they came
  };
  [[nodiscard]] Said type(const std::string& block, Nanoseconds bound);

 private:
  WalkTerminal(ProcessHandle shell, Fd in, Fd out) : shell_(std::move(shell)), in_(std::move(in)), out_(std::move(out)) {}

  ProcessHandle shell_;
  Fd in_, out_;
  unsigned typed_ = 0;
};

}  // namespace mose::test
