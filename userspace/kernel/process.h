// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose {

// A process is a pidfd plus its start time, never a bare number: a number may name another process a moment later.
//
// Life: open() a process that exists (or adopt the pidfd of a child), use it as long as wanted; a handle keeps no process
// alive and stays valid, but useless, after the process has gone. Numbers are those of our own pid namespace.
class ProcessHandle {
 public:
  ProcessHandle() = default;

  // The process that has this number now.
  [[nodiscard]] static Result<ProcessHandle> open(pid_t pid);
  // The same process as one that was written down before (a journal): fails with ESRCH when the number names another.
  [[nodiscard]] static Result<ProcessHandle> open_same(pid_t pid, uint64_t start_time);

  [[nodiscard]] pid_t pid() const { return pid_; }
  // Clock ticks since boot (field 22 of /proc/PID/stat).
  [[nodiscard]] uint64_t start_time() const { return start_time_; }
  // Readable when the process has ended: fits poll and epoll. A borrow.
  [[nodiscard]] int fd() const { return pidfd_.get(); }
  [[nodiscard]] bool valid() const { return pidfd_.valid(); }
  explicit operator bool() const { return valid(); }

  // False once it has ended (a zombie has ended).
  [[nodiscard]] bool alive() const;
  // ESRCH when it has ended.
  [[nodiscard]] Status signal(int number) const;
  // Waits until it has ended; any process, nothing is reaped. ETIMEDOUT when `bound` passed first.
  [[nodiscard]] Status wait_ended(Nanoseconds bound) const;
  // Waits for our own child and reaps it. ETIMEDOUT when `bound` passed first, ECHILD when it is no child of ours.
  struct Exit {
    bool signalled = false;
    int value = 0;  // exit status, or the number of the signal
    [[nodiscard]] bool success() const { return !signalled && value == 0; }
  };
  [[nodiscard]] Result<Exit> reap(Nanoseconds bound) const;
  // A copy of one of its descriptors. Takes the right to trace it.
  [[nodiscard]] Result<Fd> descriptor(int number) const;
  // Another handle of the same process.
  [[nodiscard]] Result<ProcessHandle> share() const;

 private:
  ProcessHandle(Fd pidfd, pid_t pid, uint64_t start_time)
      : pidfd_(std::move(pidfd)), pid_(pid), start_time_(start_time) {}

  Fd pidfd_;
  pid_t pid_ = 0;
  uint64_t start_time_ = 0;
};

// Our own children that have ended and that nobody has reaped.
struct EndedChild {
  pid_t pid = 0;
  uint64_t start_time = 0;
  auto operator<=>(const EndedChild&) const = default;
};
[[nodiscard]] std::vector<EndedChild> ended_children();
// False: it is none of ours, or not ended.
bool reap_child(const EndedChild& child);

// Whether they have one descriptor table (clone with CLONE_FILES). False where that cannot be seen.
[[nodiscard]] bool share_descriptors(pid_t a, pid_t b);

// "exit status 3" or "signal 9".
[[nodiscard]] std::string describe(const ProcessHandle::Exit& exit);

// The process and all its descendants, parents before children. Only a frozen tree cannot change meanwhile; processes
// that end while we look are left out. At most kTreeProcessesMax, more is an error.
inline constexpr size_t kTreeProcessesMax = 4096;
[[nodiscard]] Result<std::vector<ProcessHandle>> process_tree(const ProcessHandle& root);

// The number that the process has in its own (innermost) pid namespace: the number in CRIU's images.
[[nodiscard]] Result<pid_t> virtual_pid(const ProcessHandle& process);
// The host number of the parent.
[[nodiscard]] Result<pid_t> parent_pid(const ProcessHandle& process);
// Waits until no process of these is traced any more. A CRIU whose agent has died lets go of its tasks a moment later, and
// freezes their cgroup again just before: thaw only after this. ETIMEDOUT when `bound` passed first.
[[nodiscard]] Status wait_untraced(const std::vector<ProcessHandle>& processes, Nanoseconds bound);
// Field of /proc/PID/status without its name and blanks, e.g. "VmRSS" -> "1234 kB".
[[nodiscard]] Result<std::string> status_field(const ProcessHandle& process, const std::string& name);

enum class NamespaceKind : uint8_t { net, ipc, uts, time, mnt, pid, user, cgroup };
[[nodiscard]] const char* to_string(NamespaceKind kind);

// An open namespace file: keeps the namespace alive as long as it is held.
[[nodiscard]] Result<Fd> open_namespace(const ProcessHandle& process, NamespaceKind kind);
[[nodiscard]] Result<Fd> own_namespace(NamespaceKind kind);
// A fresh namespace (net, ipc or uts), made by a short-lived thread, so that the caller changes none of its own.
[[nodiscard]] Result<Fd> new_namespace(NamespaceKind kind);
// The host name of a uts namespace, by a short-lived thread likewise.
[[nodiscard]] Status set_hostname(int uts, const std::string& name);
// True when both files name the same namespace.
[[nodiscard]] Result<bool> same_namespace(int a, int b);

}  // namespace mose
