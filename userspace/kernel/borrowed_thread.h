// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/clock.h"
#include "base/result.h"

namespace mose {

// A thread of another process that executes a few system calls for us. Only a thread that waits in the kernel in a call
// that the kernel restarts is taken: it lies in no restartable sequence, needs no processor, and whoever waits for it
// waits anyway. No other thread of the process stops.
//
// Life: borrow() stops one; call() any number of times; the destructor puts everything back and lets it go on with what
// it was waiting for, as if nothing had been. Everything on one thread of ours, in with_borrowed_threads(): ptrace belongs to
// it, and when it ends the kernel lets go whatever it has seized, as it is. The calls use the thread's own `syscall`
// instruction: if we are killed in between, it goes on behind that with a wrong result, which is a spurious wakeup for a
// futex, and why those are taken first.
//
// x86-64 only so far (ENOTSUP elsewhere).
class BorrowedThread {
 public:
  // EBUSY: no thread waited within kBorrowBound. EPERM: somebody traces it already, or its seccomp filter cannot be
  // suspended.
  [[nodiscard]] static Result<BorrowedThread> borrow(pid_t pid);
  BorrowedThread(BorrowedThread&&) noexcept;
  BorrowedThread& operator=(BorrowedThread&&) = delete;
  ~BorrowedThread();

  [[nodiscard]] pid_t tid() const;
  // What the call returned; -errno is a value like any other. An error: the thread has gone or does not answer.
  [[nodiscard]] Result<int64_t> call(long number, const std::array<uint64_t, 3>& arguments);
  // Lets go now, and says for how long the thread was stopped.
  Nanoseconds give_back();

 private:
  struct State;
  explicit BorrowedThread(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Runs `work` on a thread of ours that is preferred to everything else, for the 0.1 ms that somebody is stopped, and waits for
// it. A thread that has not come to a stop within its bound, because its group has used up its share of the processor, say,
// or its machine is busy, is not let go as it is: our thread stays until it can be put right, and then does what `afterwards`
// says, again where that gives false; nobody waits for it. False: that is so.
bool with_borrowed_threads(const std::function<void()>& work, std::function<bool()> afterwards = {});

// How long a thread is looked for that waits, and how long one may take to stop.
inline constexpr Nanoseconds kBorrowBound = std::chrono::milliseconds(50);

}  // namespace mose
