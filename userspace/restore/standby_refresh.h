// SPDX-License-Identifier: MIT
#pragma once

#include <span>

#include "base/clock.h"
#include "kernel/process.h"
#include "restore/standby_compare.h"

namespace mose::restore {

// Makes a frozen standby into what a restore from the final images would be.
//
// Life: restore from the early images behind the fence (cgroup frozen, CRIU gone); quiet_standby(); at the switchover
// compare_images() and refresh_standby(); thaw. The tree stays frozen all the time and executes nothing; while a thread
// is being set, the group may say for a moment that it is not frozen. After an error nothing can be said about the tree
// but that it is frozen and untraced: kill it and restore anew.

struct StandbyProcess {
  SpaceId space = 0;  // virtual pid
  const ProcessHandle* process = nullptr;
};

// So that connections send nothing and time nothing out while the standby stands: all into repair mode.
[[nodiscard]] Status quiet_standby(std::span<const StandbyProcess> tree);

// The workload must not see its clocks go back: an error when a clock of the standby shows less than `final`.
[[nodiscard]] Status check_standby_clocks(const StandbyClocks& final, const ProcessHandle& process);

struct StandbyTimes {
  Nanoseconds seize{}, sockets{}, files{}, memory{}, threads{}, release{};  // release: connections leave repair mode
  [[nodiscard]] Nanoseconds total() const { return seize + sockets + files + memory + threads + release; }
};
// Everything on the calling thread, which becomes the tracer for a moment. Leaving repair mode, each connection sends a
// window probe, and then what had never been sent. Keep egress shut until this has succeeded, and while a standby that
// was refreshed in vain is killed: out of repair mode its sockets would say goodbye to their peers.
[[nodiscard]] Result<StandbyTimes> refresh_standby(const StandbyDelta& delta, std::span<const StandbyProcess> tree);

}  // namespace mose::restore
