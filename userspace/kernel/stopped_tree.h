// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "kernel/cgroup.h"

namespace mose {

// Frozen processes that execute a few system calls for us, or a few instructions of ours, and nothing else. A frozen thread
// cannot even do that: so every thread of the group is stopped by ptrace first, the group is thawed, and one thread at a time
// goes as far as into a call and out of it. Dying while it is so, we take the whole group with us (PTRACE_O_EXITKILL): nothing
// of it ever runs.
//
// Life: stop(); call() any number of times; let_go() puts registers back, freezes the group again and goes. The destructor
// does the same; where the group does not freeze again it is killed. Everything on one thread of ours.
//
// On its way to a call and back a thread may write to its own restartable-sequence area and reads no memory but the vdso; in
// run() what is executed reads.
//
// x86-64 only so far (ENOTSUP elsewhere).
class StoppedTree {
 public:
  // `group` is frozen, has no groups below it, and nobody else is a tracer in it; it must outlive this. An error: the group is as it was, unless it is
  // EOWNERDEAD: it could not be put back and is killed.
  [[nodiscard]] static Result<StoppedTree> stop(const Cgroup& group);
  StoppedTree(StoppedTree&&) noexcept;
  StoppedTree& operator=(StoppedTree&&) = delete;
  ~StoppedTree();

  // Whether the first thread of that process can work for us; asked before anything else, an error leaves all as it was.
  [[nodiscard]] Status employ(pid_t process);
  // By the first thread of that process. What the call returned; -errno is a value like any other. An error: what was to be
  // done is done in part or not at all.
  [[nodiscard]] Result<int64_t> call(pid_t process, long number, const std::array<uint64_t, 6>& arguments);
  // Its two halves. Between them the thread is inside the kernel, at the beginning of the call, and has left its own memory
  // alone since it went in.
  [[nodiscard]] Status enter(pid_t process, long number, const std::array<uint64_t, 6>& arguments);
  [[nodiscard]] Result<int64_t> leave(pid_t process);
  // That thread executes what is at `code` in its process, until that makes a system call: this one. Out of it again. What is
  // executed must come there within a second.
  [[nodiscard]] Status run(pid_t process, uint64_t code, long number, const std::array<uint64_t, 6>& arguments);
  // Bytes of that thread's restartable-sequence area; none: empty.
  struct Area {
    uint64_t address = 0, bytes = 0;
  };
  [[nodiscard]] Result<Area> restartable_area(pid_t process) const;
  // Frozen again, and no longer traced.
  [[nodiscard]] Status let_go();

 private:
  struct State;
  explicit StoppedTree(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mose
