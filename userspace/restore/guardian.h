// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"
#include "restore/guardian_file.h"

namespace mose::restore {

class PagerState;

// Whether one of them still has the pager that has started it: nobody may take over then.
[[nodiscard]] bool pager_lives(const GuardianList& guardians);

// The guardian keeps every descriptor of the pager alive when the pager dies: a child that shares the pager's
// descriptor table (clone with CLONE_FILES, without CLONE_VM) and only sleeps. So a userfaultfd that a fork event has
// just put into the table is never in one hand only, and the workload of a dead pager waits instead of reading zero
// pages.
//
// Life: start() early, while the process is small and has one thread, so that the child copies little. It ignores every
// signal but SIGKILL and has a session of its own. stop(), or the owner's destructor, only after the userfaultfds are
// closed (closing them in one of the two closes them in both), or while another guardian holds them.
class Guardian {
 public:
  Guardian() = default;
  Guardian(Guardian&&) = default;
  Guardian& operator=(Guardian&& other) noexcept {
    stop();
    process_ = std::exchange(other.process_, {});
    return *this;
  }
  ~Guardian() { stop(); }
  [[nodiscard]] static Result<Guardian> start();

  [[nodiscard]] const ProcessHandle& process() const { return process_; }
  [[nodiscard]] GuardianName name() const { return {static_cast<uint32_t>(process_.pid()), process_.start_time()}; }
  [[nodiscard]] bool alive() const { return process_.valid() && process_.alive(); }
  // Kills and reaps it.
  void stop();

 private:
  ProcessHandle process_;
};

// Taking over from the guardian of a pager that died.
//
// Life: begin(), take what is there, finish(). At every moment the guardian file names one guardian that holds
// everything, and all others that are alive: a takeover may be killed at any point and be begun again by the next
// process.
class Takeover {
 public:
  // `guardian` is the one that the file names first; `mine` this process's own.
  [[nodiscard]] static Result<Takeover> begin(pid_t guardian, const std::string& socket_path, const Guardian& mine);
  // Number `theirs` of its descriptor table.
  [[nodiscard]] Result<Fd> take(int theirs) const;
  // The one memfd or huge_memory_file() that was created under this name; an error when there is none or more than one.
  [[nodiscard]] Result<Fd> take_memory(std::string_view name) const;
  // Every userfaultfd that an adopted state names, under its number, and one that a fork message left in a slot.
  [[nodiscard]] Status take_userfaultfds(PagerState& state) const;
  // Everything has been taken: our guardian is the one from now on, the others are ended, and with them the dead
  // pager's connections.
  [[nodiscard]] Status finish();

 private:
  ProcessHandle process_;
  std::string socket_path_;
  GuardianName mine_;
  GuardianList list_;
};

// Userfaultfds lie at numbers from here on and keep them when a second pager takes over, so that the numbers in the
// pager's state stay true at every moment.
inline constexpr int kCustodyFdMin = 256;
// Moves a descriptor to a number from kCustodyFdMin on, or to exactly `number`, which must be free.
[[nodiscard]] Result<Fd> into_custody(Fd fd);
[[nodiscard]] Result<Fd> into_custody_at(Fd fd, int number);

}  // namespace mose::restore
