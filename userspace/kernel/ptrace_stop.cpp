// SPDX-License-Identifier: MIT
#include "kernel/ptrace_stop.h"

#include <sched.h>
#include <time.h>

#include <cerrno>
#include <string>

namespace mose {
namespace {

// Most stand within that; who does not may want the processor.
constexpr Nanoseconds kYield = std::chrono::microseconds(100);
constexpr timespec kPause{0, 20'000};

}  // namespace

Result<int> next_stop(pid_t tid, Nanoseconds bound) {
  const Timestamp since = now();
  for (;;) {
    const Nanoseconds waited = now() - since;  // before the look that is judged by it
    int status = 0;
    const pid_t got = ::waitpid(tid, &status, __WALL | WNOHANG);
    if (got < 0 && errno != EINTR) return fail_errno("wait for a stop of thread " + std::to_string(tid));
    if (got == tid) {
      if (!WIFSTOPPED(status)) return std::unexpected(Error{ESRCH, "thread " + std::to_string(tid) + " has ended"});
      return status;
    }
    if (waited > bound) return std::unexpected(Error{ETIMEDOUT, "thread " + std::to_string(tid) + " does not stop"});
    if (waited < kYield)
      ::sched_yield();
    else
      ::nanosleep(&kPause, nullptr);
  }
}

#if defined(__x86_64__)
user_regs_struct call_registers(user_regs_struct from, uint64_t instruction, long number, const std::array<uint64_t, 6>& arguments) {
  from.rip = instruction;
  from.rax = static_cast<uint64_t>(number);
  from.orig_rax = ~0ull;  // nothing to restart
  from.rdi = arguments[0];
  from.rsi = arguments[1];
  from.rdx = arguments[2];
  from.r10 = arguments[3];
  from.r8 = arguments[4];
  from.r9 = arguments[5];
  return from;
}
#endif

}  // namespace mose
