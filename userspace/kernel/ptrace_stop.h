// SPDX-License-Identifier: MIT
#pragma once

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "base/result.h"

// Of threads that we have seized (PTRACE_SEIZE): their stops, and how one of them goes into a system call.
namespace mose {

inline constexpr unsigned long kPtraceExitKill = 1ul << 20, kPtraceSuspendSeccomp = 1ul << 21;
inline constexpr uint64_t kUserCode64 = 0x33;  // code segment of 64-bit programs: others have other calls
inline constexpr uint64_t kEverySignal = ~0ull;

inline long trace(int request, pid_t tid, void* address, void* data) {
  return ::ptrace(static_cast<__ptrace_request>(request), tid, address, data);
}

// Stopped by anything that is no signal: PTRACE_INTERRUPT, or a stop of the whole process (not by SIGTRAP).
inline bool is_event_stop(int status) {
  constexpr unsigned kPtraceEventStop = 128;
  return static_cast<unsigned>(status) >> 16 == kPtraceEventStop;
}
// By PTRACE_INTERRUPT.
inline bool is_interrupt_stop(int status) { return is_event_stop(status) && WSTOPSIG(status) == SIGTRAP; }
// At the beginning or the end of a system call (PTRACE_O_TRACESYSGOOD).
inline bool is_call_stop(int status) { return WSTOPSIG(status) == (SIGTRAP | 0x80); }

// The next stop, as waitpid's status. ESRCH: it has ended; ETIMEDOUT: none within `bound`, as in an uninterruptible wait.
[[nodiscard]] Result<int> next_stop(pid_t tid, Nanoseconds bound);

#if defined(__x86_64__)
// Registers with which a thread goes into this call, by the `syscall` instruction at `instruction`.
[[nodiscard]] user_regs_struct call_registers(user_regs_struct from, uint64_t instruction, long number,
                                              const std::array<uint64_t, 6>& arguments);
#endif

}  // namespace mose
