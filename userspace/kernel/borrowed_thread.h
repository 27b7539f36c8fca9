// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <span>

#include "base/clock.h"
#include "base/result.h"

namespace mose {

// A thread of another process that makes a userfaultfd there for us, or closes one. Only a thread that waits in the kernel in a call
// that the kernel restarts is taken: it lies in no restartable sequence, needs no processor, and whoever waits for it
// waits anyway. No other thread of the process stops.
//
// Life: borrow() stops one, in with_borrowed_threads(); the destructor puts everything back, closes what was made and not closed,
// and lets it go on with what it was waiting for, as if nothing had been. The calls use the thread's own `syscall`
// instruction: if we are killed in between, it goes on behind that with a wrong result, which is a spurious wakeup for a
// futex, and why those are taken first.
//
// x86-64 only so far (ENOTSUP elsewhere).
class BorrowedThread {
 public:
  // EBUSY: no thread waited within kBorrowBound, or one of that process is still on its way back. EPERM: somebody traces it
  // already, or its seccomp filter cannot be suspended. ETIMEDOUT: it does not stop.
  [[nodiscard]] static Result<BorrowedThread> borrow(pid_t pid);
  BorrowedThread(BorrowedThread&&) noexcept;
  BorrowedThread& operator=(BorrowedThread&&) = delete;
  ~BorrowedThread();

  [[nodiscard]] pid_t tid() const;
  // Its number in the process. An error of either: the call's own, or the thread has gone or gets no processor, and what it had begun
  // is undone as soon as it does.
  [[nodiscard]] Result<int> make_userfaultfd(int flags);
  [[nodiscard]] Status close_userfaultfd(int number);
  // Lets go now, and says for how long the thread was stopped.
  Nanoseconds give_back();

 private:
  struct State;
  explicit BorrowedThread(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Runs `work`, which borrows one thread after the other, on a thread of ours that is preferred to everything else, for the 0.1 ms that
// somebody is stopped, and waits for it. ptrace belongs to that thread of ours, and when it ends the kernel lets go whatever it has
// seized, as it is. So it stays where a borrowed thread does not come to a stop in time (kernel/seized_thread.h), because its group has used up its
// share of the processor, say, or the machine is busy: until that can be put right. Nobody waits for that, and until then no
// thread of that process is borrowed. False: that is so.
bool with_borrowed_threads(const std::function<void()>& work);
// Until all of them are right, before this program ends, or those of these processes, before they are stopped: theirs would be stopped in
// our hands. False: not within `bound`.
[[nodiscard]] bool wait_for_borrowed_threads(Nanoseconds bound);
[[nodiscard]] bool wait_for_borrowed_threads(Nanoseconds bound, std::span<const pid_t> processes);

// How long a thread is looked for that waits.
inline constexpr Nanoseconds kBorrowBound = std::chrono::milliseconds(50);

}  // namespace mose
