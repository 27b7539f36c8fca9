// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/result.h"

#if defined(__x86_64__)
namespace mose {

// How long one may take to stop, which waits for nothing but a processor: 5 to 20 ms now and then on a busy machine, 70 seen.
inline constexpr Nanoseconds kStopBound = std::chrono::milliseconds(250);

// Calls that wait and that the kernel restarts by itself after a stop, or that we can: the place of one among them, nothing for all
// others. Earlier ones are better to interrupt: a futex waits for a peer that does not run either, a socket for the world.
[[nodiscard]] std::optional<size_t> place_among_waits(long number);

// A thread that ptrace has seized while it waited in such a call, by the thread of ours that it is used on. It may only be let go from a
// stop, with the registers that it was found with: put_back() or, when that cannot be done yet, put_back_late(). Nothing is
// done by the destructor; a copy is the same thread.
class SeizedThread {
 public:
  SeizedThread(pid_t pid, pid_t tid) : pid_(pid), tid_(tid) {}

  // Seizes it and waits for its stop. An error: it may be attached() all the same.
  [[nodiscard]] Status attach(bool suspend_seccomp);
  // Takes down what must be put back. False: the thread does not wait in a call of ours any more.
  [[nodiscard]] Result<bool> prepare();
  // Makes it call; what that returned. An error: the call was not made, or what it did is not known yet and is looked at by put_back().
  [[nodiscard]] Result<int64_t> call(long number, const std::array<uint64_t, 3>& arguments);
  // A descriptor that put_back() is to close there. Of those that its calls make it knows.
  void note_made(int userfaultfd) { made_ = userfaultfd; }
  // Lets it go as if nothing had been. False: it does not stand yet, or has something open that it is to close.
  [[nodiscard]] bool put_back();
  // However long it takes until it stops, or ends.
  void put_back_late();

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] pid_t tid() const { return tid_; }
  [[nodiscard]] bool attached() const { return attached_; }
  [[nodiscard]] Timestamp stopped_at() const { return stopped_at_; }

 private:
  static constexpr int kNone = -1;
  [[nodiscard]] long trace(int request, void* address, void* data) const;
  [[nodiscard]] Result<int> next() const;
  [[nodiscard]] Status wait_stop();
  [[nodiscard]] long signal() const;
  [[nodiscard]] bool resume(int request) const;
  [[nodiscard]] Status to_call();
  [[nodiscard]] Status to_event();
  int64_t returned(const user_regs_struct& at_end);
  void recall();
  void account();
  void rewind_interrupted();
  [[nodiscard]] bool close_made();

  pid_t pid_, tid_;
  user_regs_struct registers_{};  // as found, once it is `prepared`
  uint64_t signal_mask_ = 0;
  Timestamp stopped_at_{};
  bool attached_ = false, prepared_ = false;
  bool standing_ = false;  // in a stop that we have seen,
  bool event_ = false;     // and in one of PTRACE_INTERRUPT's kind
  int seen_ = 0;           // that stop, as waitpid's status
  bool patient_ = false;   // waits for a stop as long as it takes
  bool calling_ = false, entered_ = false;  // in a call of ours, and has been seen to enter it
  long call_number_ = 0;
  int made_ = kNone;  // a userfaultfd that a call has made and none has closed
};

}  // namespace mose
#endif
