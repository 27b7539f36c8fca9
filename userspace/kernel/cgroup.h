// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose {

// A control group of version 2, held by a descriptor of its directory. Its freezer is the fence of a migration: what is
// frozen here cannot run, whoever dies.
//
// Life: create() or open(); the object owns the descriptor only. The group itself lives until remove(), so that it
// survives the agent.
class Cgroup {
 public:
  Cgroup() = default;

  // Creates the directory (parents too) when it is missing. `path` is absolute, below the version 2 mount.
  [[nodiscard]] static Result<Cgroup> create(const std::string& path);
  [[nodiscard]] static Result<Cgroup> open(const std::string& path);
  // The group that a process is in.
  [[nodiscard]] static Result<Cgroup> of_process(pid_t pid);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int fd() const { return dir_.get(); }
  [[nodiscard]] bool valid() const { return dir_.valid(); }

  // Asks for a freeze and returns at once: one write, the first half of freeze().
  [[nodiscard]] Status request_freeze() const;
  // Freezes and waits until the kernel says frozen. ETIMEDOUT after `bound`: the request stays in force.
  [[nodiscard]] Status freeze(Nanoseconds bound) const;
  // Thaws; what was stopped by a signal stays stopped.
  [[nodiscard]] Status thaw() const;
  // Waits for `frozen 1` without asking for it.
  [[nodiscard]] Status wait_frozen(Nanoseconds bound) const;
  // What the kernel says of the present: an empty group that was asked to freeze is frozen too.
  [[nodiscard]] Result<bool> frozen() const;
  // What was asked for (cgroup.freeze).
  [[nodiscard]] Result<bool> freeze_requested() const;

  // Processes in this group, without those of groups below; processes outside our pid namespace are left out.
  [[nodiscard]] Result<std::vector<pid_t>> procs() const;
  [[nodiscard]] Result<bool> populated() const;
  // Whether there are groups below, which freeze and thaw with this one.
  [[nodiscard]] Result<bool> has_groups() const;
  // A descriptor of cgroup.events, for who waits with others: EPOLLPRI when something in it has changed since note_events(). The
  // death of a process of a frozen group is such a change as well.
  [[nodiscard]] Result<Fd> watch_events() const;
  static void note_events(int fd);
  // Moves a process here (0: the caller).
  [[nodiscard]] Status add(pid_t pid) const;
  // SIGKILL to every process in it, frozen or not; returns before they have gone.
  [[nodiscard]] Status kill() const;
  [[nodiscard]] Status wait_empty(Nanoseconds bound) const;
  // Kills, and waits until it is empty: for `bound`, and for what the kernel needs to free the memory of its processes, as far as this
  // object has seen it: who is ending already shows none.
  [[nodiscard]] Status end(Nanoseconds bound);
  // Waits until it is empty and removes the directory. The object is invalid afterwards, whatever the result.
  [[nodiscard]] Status remove(Nanoseconds bound);

 private:
  Cgroup(Fd dir, std::string path) : dir_(std::move(dir)), path_(std::move(path)) {}
  [[nodiscard]] Result<bool> event(const std::string& name) const;
  [[nodiscard]] Status wait_event(const std::string& name, bool wanted, Nanoseconds bound) const;

  Fd dir_;
  std::string path_;
  uint64_t held_ = 0;  // bytes, see end()
};

// What the kernel may take to free so much memory of who ends: 0.1 to 0.2 s a GiB, and as much again where others want the processor.
[[nodiscard]] Nanoseconds time_to_free(uint64_t bytes);

// Where version 2 is mounted here: /sys/fs/cgroup, or /sys/fs/cgroup/unified on hybrid hosts.
[[nodiscard]] Result<std::string> cgroup_mount();

}  // namespace mose
