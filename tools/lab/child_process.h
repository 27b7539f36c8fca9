// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"

// Programs in other namespaces. The lab is one thread, so that it may fork and do what it likes before exec.
namespace mose::lab {

// Namespaces to enter, as open descriptors; an invalid one means "stay".
struct Place {
  Fd mnt, net, pid, uts, ipc;

  // All namespaces of a process.
  [[nodiscard]] static Result<Place> of_process(pid_t pid);
  [[nodiscard]] static Result<Place> of_netns(const std::string& path);
  // Enters all but takes effect for the pid namespace only in children. Ends in the place's root directory.
  [[nodiscard]] Status enter() const;
};

struct ProgramSpec {
  std::vector<std::string> argv;         // argv[0] is searched for in PATH, inside the place
  const Place* place = nullptr;
  std::string cgroup;                    // absolute path of a cgroup to join first; empty: stay
  int in = -1, out = -1, err = -1;       // -1: /dev/null for in, ours for out and err
  std::vector<std::pair<int, int>> descriptors;  // further ones: ours, and its number there; no others are passed on
  std::vector<std::string> environment;  // NAME=VALUE, added to ours
  bool die_with_us = false;
};

// Starts the program as our child (or as the child of a child of ours that ends as it ends, when a pid namespace is
// entered). Fails when it could not be executed.
[[nodiscard]] Result<ProcessHandle> start_program(const ProgramSpec& spec);

// Starts the program in a session of its own as a child of the place's pid 1. The handle is that of the program itself.
[[nodiscard]] Result<ProcessHandle> start_daemon(const ProgramSpec& spec);

struct ProgramResult {
  int exit_code = 0;  // 128 + signal when it was killed
  std::string out, err;
};
// Runs it to its end. `input` is its standard input; both outputs are captured, at most kCaptureMax each.
inline constexpr size_t kCaptureMax = 16u << 20;
[[nodiscard]] Result<ProgramResult> run_program(ProgramSpec spec, const std::string& input, Nanoseconds bound);

// Runs `body` in a forked child that entered the place, and gives back its error. Nothing that it changes in memory
// comes back.
template <typename F>
[[nodiscard]] Status in_place(const Place& place, F&& body);

[[nodiscard]] Status run_forked(const Place* place, Status (*body)(void*), void* argument);
template <typename F>
Status in_place(const Place& place, F&& body) {
  return run_forked(&place, [](void* f) -> Status { return (*static_cast<std::remove_reference_t<F>*>(f))(); }, &body);
}

}  // namespace mose::lab
