// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/fd.h"
#include "restore/standby_refresh.h"

namespace mose::restore {

// The parts of refresh_standby; of no use elsewhere.

// Threads of the standby that we trace. Whatever happens, the destructor lets go of all of them.
class StandbyThreads {
 public:
  StandbyThreads() = default;
  StandbyThreads(const StandbyThreads&) = delete;
  StandbyThreads& operator=(const StandbyThreads&) = delete;
  ~StandbyThreads();
  // Seizes all threads of these processes and asks them to stop; waits for none. An error unless they are those of
  // `delta`.
  [[nodiscard]] Status seize(const StandbyDelta& delta, std::span<const StandbyProcess> tree);
  // Waits for the stops, gives every thread its registers and signal mask, and lets go.
  [[nodiscard]] Status set(const StandbyDelta& delta);

 private:
  struct Thread {
    SpaceId space = 0;
    uint32_t tid = 0;  // virtual
    pid_t host_tid = 0;
    bool attached = false;
  };
  [[nodiscard]] Status seize_process(const StandbyProcess& process, uint32_t threads);
  std::vector<Thread> threads_;
};

// Duplicates of the standby's connections, in repair mode until release(). Closed with the object, at the latest.
class StandbyConnections {
 public:
  [[nodiscard]] Status restore(const StandbyDelta& delta, std::span<const StandbyProcess> tree);
  // Out of repair mode, then what had never been sent. Resting ones as well.
  [[nodiscard]] Status release(const StandbyDelta& delta, std::span<const StandbyProcess> tree);

 private:
  std::vector<Fd> sockets_;  // as delta.connections
};

[[nodiscard]] Status refresh_epolls(const StandbyDelta& delta, std::span<const StandbyProcess> tree);

// The standby's open file, as a descriptor of ours; close it soon, it keeps the file alive.
[[nodiscard]] Result<Fd> standby_file(const StandbyDescriptor& descriptor, std::span<const StandbyProcess> tree);
[[nodiscard]] std::string to_string(const StandbyDescriptor& descriptor);

}  // namespace mose::restore
