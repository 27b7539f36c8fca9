// SPDX-License-Identifier: MIT
#include "kernel/seized_thread.h"

#if defined(__x86_64__)

#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "base/fd.h"
#include "base/log.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"
#include "kernel/ptrace_stop.h"

namespace mose {
namespace {

constexpr size_t kSyscallBytes = 2;
constexpr int kCloseTries = 1000;
constexpr long kPatientPauseMaxNs = 5'000'000;
constexpr long kFutexWait = 455, kEpollPwait2 = 441;  // newer than the C library's headers

constexpr long kWaits[] = {SYS_futex,       kFutexWait,   SYS_clock_nanosleep, SYS_nanosleep,     SYS_restart_syscall,
                           SYS_pause,       SYS_poll,     SYS_ppoll,           SYS_select,        SYS_pselect6,
                           SYS_wait4,       SYS_waitid,   SYS_rt_sigtimedwait, SYS_rt_sigsuspend, SYS_epoll_wait,
                           SYS_epoll_pwait, kEpollPwait2, SYS_accept,          SYS_accept4,       SYS_recvfrom,
                           SYS_recvmsg,     SYS_read};

// These report a stop to the program as EINTR instead of going on; they have done nothing then and can be begun again.
bool returns_eintr(long number) {
  return number == SYS_epoll_wait || number == SYS_epoll_pwait || number == kEpollPwait2 ||
         number == SYS_rt_sigtimedwait || number == SYS_recvfrom || number == SYS_recvmsg || number == SYS_accept ||
         number == SYS_accept4;
}

// Whether `number` is a userfaultfd of the thread: its process may have closed it itself, as one that closes all it has.
bool is_userfaultfd(pid_t pid, pid_t tid, int number) {
  char target[64];
  const ssize_t length = readlink(thread_path(pid, tid, ("fd/" + std::to_string(number)).c_str()).c_str(), target, sizeof target);
  return std::string_view(target, length > 0 ? static_cast<size_t>(length) : 0) == "anon_inode:[userfaultfd]";
}

}  // namespace

std::optional<size_t> place_among_waits(long number) {
  const auto* at = std::find(std::begin(kWaits), std::end(kWaits), number);
  if (at == std::end(kWaits)) return std::nullopt;
  return static_cast<size_t>(at - std::begin(kWaits));
}

long SeizedThread::trace(int request, void* address, void* data) const { return mose::trace(request, tid_, address, data); }

Result<int> SeizedThread::next() const {
  if (!patient_) return next_stop(tid_, kStopBound);
  // The end of a child of ours is for who has started it; and a leader that has ended shows no stop while others of its
  // process live.
  for (timespec pause{0, 20'000};; pause.tv_nsec = std::min(2 * pause.tv_nsec, kPatientPauseMaxNs)) {
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(tid_), &info, WSTOPPED | WEXITED | WNOWAIT | WNOHANG | __WALL) != 0 && errno != EINTR)
      return fail_errno("wait for a borrowed thread");
    const bool stopped = info.si_pid != 0 && (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED);
    if (stopped) return next_stop(tid_, kStopBound);
    if (info.si_pid != 0 || has_ended(tid_)) return std::unexpected(Error{ESRCH, "a borrowed thread has ended"});
    nanosleep(&pause, nullptr);
  }
}

// Bounded, if it is not patient: the thread may have gone into an uninterruptible wait, or get no processor.
Status SeizedThread::wait_stop() {
  standing_ = event_ = false;
  MOSE_ASSIGN(seen_, next());
  standing_ = true;
  event_ = is_event_stop(seen_);
  return {};
}

// The signal with which the thread stands, which it must get.
long SeizedThread::signal() const { return static_cast<unsigned>(seen_) >> 16 == 0 && !is_call_stop(seen_) ? WSTOPSIG(seen_) : 0; }
bool SeizedThread::resume(int request) const { return trace(request, nullptr, reinterpret_cast<void*>(signal())) == 0; }
// To the next stop at the beginning or the end of a call.
Status SeizedThread::to_call() {
  do {
    if (!resume(PTRACE_SYSCALL)) return fail_errno("PTRACE_SYSCALL");
    MOSE_TRY(wait_stop());
    if (event_) return fail("the process was stopped by somebody else");
  } while (!is_call_stop(seen_));
  return {};
}
// From a stop of another kind, which has cancelled what was asked for before, into one that a thread can be put right in.
Status SeizedThread::to_event() {
  while (!event_) {
    if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return fail_errno("PTRACE_INTERRUPT");
    if (!resume(PTRACE_CONT)) return fail_errno("PTRACE_CONT");
    MOSE_TRY(wait_stop());
  }
  return {};
}

Status SeizedThread::attach(bool suspend_seccomp) {
  unsigned long options = PTRACE_O_TRACESYSGOOD | (suspend_seccomp ? kPtraceSuspendSeccomp : 0);
  if (trace(PTRACE_SEIZE, nullptr, reinterpret_cast<void*>(options)) != 0) {
    return fail_errno(suspend_seccomp ? "seizing a thread with its seccomp filter suspended" : "seizing a thread");
  }
  attached_ = true;
  stopped_at_ = now();
  if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return fail_errno("PTRACE_INTERRUPT");
  MOSE_TRY(wait_stop());
  // Where a signal came first the stop that we ask for follows before its handler runs.
  MOSE_TRY(to_event());
  return is_interrupt_stop(seen_) ? Status{} : Status(fail("the process is stopped"));
}

Result<bool> SeizedThread::prepare() {
  if (trace(PTRACE_GETREGS, nullptr, &registers_) != 0) return fail_errno("PTRACE_GETREGS");
  const auto number = static_cast<long>(registers_.orig_rax);
  if (registers_.cs != kUserCode64 || !place_among_waits(number)) return false;
  unsigned char code[kSyscallBytes];
  iovec local{code, sizeof code};
  iovec remote{reinterpret_cast<void*>(registers_.rip - kSyscallBytes), sizeof code};
  if (process_vm_readv(tid_, &local, 1, &remote, 1, 0) != sizeof code || code[0] != 0x0f || code[1] != 0x05)
    return false;
  if (trace(PTRACE_GETSIGMASK, reinterpret_cast<void*>(sizeof signal_mask_), &signal_mask_) != 0) {
    return fail_errno("PTRACE_GETSIGMASK");
  }
  // Signals wait until the thread has its own registers again.
  uint64_t all = kEverySignal;
  if (trace(PTRACE_SETSIGMASK, reinterpret_cast<void*>(sizeof all), &all) != 0)
    return fail_errno("PTRACE_SETSIGMASK");
  prepared_ = true;
  return true;
}

Result<int64_t> SeizedThread::call(long number, const std::array<uint64_t, 3>& arguments) {
  user_regs_struct now_in = call_registers(registers_, registers_.rip - kSyscallBytes, number, {arguments[0], arguments[1], arguments[2], 0, 0, 0});
  if (trace(PTRACE_SETREGS, nullptr, &now_in) != 0) return fail_errno("PTRACE_SETREGS");
  calling_ = true;
  entered_ = false;
  call_number_ = number;
  Status made_it = to_call();
  entered_ = made_it.has_value();
  if (entered_) made_it = to_call();
  if (!made_it) {
    recall();
    return std::unexpected(std::move(made_it.error()));
  }
  calling_ = false;
  if (trace(PTRACE_GETREGS, nullptr, &now_in) != 0) return fail_errno("PTRACE_GETREGS");
  return returned(now_in);
}
int64_t SeizedThread::returned(const user_regs_struct& at_end) {
  const auto result = static_cast<int64_t>(at_end.rax);
  if (call_number_ == SYS_userfaultfd && result >= 0) made_ = static_cast<int>(result);
  if (call_number_ == SYS_close && result == 0) made_ = kNone;
  return result;
}

// The thread did not come to the call (its cgroup was frozen, say), or not out of it: back to a stop in which it can be put
// right. The kernel takes this stop before it freezes.
void SeizedThread::recall() {
  if (!standing_) {
    if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return;
    if (!wait_stop()) return;
  }
  account();
}
// In the first stop after a call that was too late. One that is only being entered is not made; what another one has done shows in
// its result.
void SeizedThread::account() {
  if (!std::exchange(calling_, false)) return;
  user_regs_struct here;
  if (trace(PTRACE_GETREGS, nullptr, &here) != 0) return;
  if (entered_) {
    (void)returned(here);
  } else if (!event_) {
    here.orig_rax = ~0ull;
    (void)trace(PTRACE_SETREGS, nullptr, &here);
  }
}

// A call that answered EINTR to our stop begins again, unless a signal waits: then EINTR is the answer that the
// program must see.
void SeizedThread::rewind_interrupted() {
  const auto number = static_cast<long>(registers_.orig_rax);
  if (static_cast<int64_t>(registers_.rax) != -EINTR || !returns_eintr(number)) return;
  auto text = read_file(thread_path(pid_, tid_, "status"), 1u << 16);
  if (!text) return;
  if ((pending_signals(*text) & ~signal_mask_) != 0) return;
  registers_.rip -= kSyscallBytes;
  registers_.rax = static_cast<uint64_t>(number);
  registers_.orig_rax = ~0ull;
}

// False: it has not done so yet.
bool SeizedThread::close_made() {
  for (int tries = 0; made_ != kNone && is_userfaultfd(pid_, tid_, made_); ++tries) {
    if (tries == kCloseTries) {
      log::warn("a process keeps a userfaultfd that was made in it and cannot be dumped", {{"pid", pid_}});
      return true;
    }
    // From the beginning of a call that was not made its end would be taken for the beginning of this one.
    if (standing_ && to_event()) (void)call(SYS_close, {static_cast<uint64_t>(made_), 0, 0});
    if (!standing_ || (made_ != kNone && !patient_)) return false;
  }
  return true;
}

// From the end of a call the kernel would go straight to the program; the restart of the interrupted call is decided on
// the way out of an event stop only. False: it has not come there yet, or has something open that it is to close.
bool SeizedThread::put_back() {
  if (!standing_) return false;
  if (prepared_) {
    if (!close_made()) return false;
    if (!standing_ || !to_event()) return false;
    rewind_interrupted();
    (void)trace(PTRACE_SETREGS, nullptr, &registers_);
    (void)trace(PTRACE_SETSIGMASK, reinterpret_cast<void*>(sizeof signal_mask_), &signal_mask_);
  }
  (void)trace(PTRACE_DETACH, nullptr, nullptr);
  attached_ = false;
  return true;
}

void SeizedThread::put_back_late() {
  patient_ = true;
  if (!standing_) {
    if (!wait_stop()) return;
    account();
  }
  if (!to_event()) return;
  // Its wait has been interrupted, and the program is not to see that.
  if (!prepared_) (void)prepare();
  (void)put_back();
}

}  // namespace mose

#endif
