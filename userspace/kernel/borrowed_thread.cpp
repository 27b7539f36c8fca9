// SPDX-License-Identifier: MIT
#include "kernel/borrowed_thread.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "kernel/lock_turns.h"
#include "kernel/proc_path.h"
#include "kernel/procfs.h"
#include "kernel/ptrace_stop.h"

namespace mose {

#if defined(__x86_64__)

namespace {

constexpr size_t kSyscallBytes = 2;
constexpr int kCloseTries = 1000;
constexpr long kLookPauseMaxNs = 1'000'000, kPatientPauseMaxNs = 5'000'000;
constexpr long kFutexWait = 455, kEpollPwait2 = 441;  // newer than the C library's headers

// Calls that wait and that the kernel restarts by itself after a stop, or that we can (see `returns_eintr`). Earlier
// ones are better: a futex waits for a peer that does not run either, a socket for the world.
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

struct Candidate {
  pid_t tid = 0;
  size_t rank = 0;
};

std::string task_path(pid_t pid, pid_t tid, const char* leaf) {
  return proc_path(pid, "task/" + std::to_string(tid) + "/" + leaf);
}

// The threads that wait in one of kWaits now, best first.
std::vector<Candidate> waiting_threads(pid_t pid) {
  std::vector<Candidate> out;
  for (pid_t tid : numbers_in(proc_path(pid, "task"))) {
    auto text = read_file(task_path(pid, tid, "syscall"), 4096);
    if (!text) continue;
    long number = -1;  // "running", or "-1 ..." when it is blocked outside a system call
    if (std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc{}) continue;
    const auto* at = std::find(std::begin(kWaits), std::end(kWaits), number);
    if (at != std::end(kWaits)) out.push_back({tid, static_cast<size_t>(at - std::begin(kWaits))});
  }
  std::stable_sort(out.begin(), out.end(), [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });
  return out;
}

std::optional<uint64_t> status_number(const std::string& text, std::string_view field, int base) {
  size_t at = text.find(field);
  if (at == std::string::npos) return std::nullopt;
  at = text.find_first_not_of("\t ", at + field.size());
  uint64_t value = 0;
  if (std::from_chars(text.data() + at, text.data() + text.size(), value, base).ec != std::errc{}) return std::nullopt;
  return value;
}

// The threads that were asked to stop and have not been seen to, by process; and who waits for there to be none.
struct LateThreads {
  std::mutex mutex;
  std::condition_variable fewer;
  std::multiset<pid_t> processes;
};
LateThreads& late_threads() {
  static auto* threads = new LateThreads;  // a thread of ours may need it when this program ends
  return *threads;
}

// Whether `number` is a userfaultfd of the thread: its process may have closed it itself, as one that closes all it has.
bool is_userfaultfd(pid_t pid, pid_t tid, int number) {
  char target[64];
  const ssize_t length = readlink(task_path(pid, tid, ("fd/" + std::to_string(number)).c_str()).c_str(), target, sizeof target);
  return std::string_view(target, length > 0 ? static_cast<size_t>(length) : 0) == "anon_inode:[userfaultfd]";
}

// A thread that we have seized. It may only be let go from a stop, with the registers that it was found with.
struct Seized {
  pid_t pid = 0, tid = 0;
  user_regs_struct registers{};  // as found, once it is `prepared`
  uint64_t signal_mask = 0;
  Timestamp stopped_at{};
  bool attached = false, prepared = false;
  bool standing = false;  // in a stop that we have seen,
  bool event = false;     // and in one of PTRACE_INTERRUPT's kind
  int seen = 0;           // that stop, as waitpid's status
  bool patient = false;   // waits for a stop as long as it takes
  bool calling = false, entered = false;  // in a call of ours, and has been seen to enter it
  long call_number = 0;
  int made = kNone;  // a userfaultfd that a call has made and none has closed

  static constexpr int kNone = -1;

  [[nodiscard]] long trace(int request, void* address, void* data) const { return mose::trace(request, tid, address, data); }

  [[nodiscard]] Result<int> next() const {
    if (!patient) return next_stop(tid, kStopBound);
    // The end of a child of ours is for who has started it; and a leader that has ended shows no stop while others of its
    // process live.
    for (timespec pause{0, 20'000};; pause.tv_nsec = std::min(2 * pause.tv_nsec, kPatientPauseMaxNs)) {
      siginfo_t info{};
      if (::waitid(P_PID, static_cast<id_t>(tid), &info, WSTOPPED | WEXITED | WNOWAIT | WNOHANG | __WALL) != 0 && errno != EINTR)
        return fail_errno("wait for a borrowed thread");
      const bool stopped = info.si_pid != 0 && (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED);
      if (stopped) return next_stop(tid, kStopBound);
      if (info.si_pid != 0 || has_ended()) return std::unexpected(Error{ESRCH, "a borrowed thread has ended"});
      nanosleep(&pause, nullptr);
    }
  }
  [[nodiscard]] bool has_ended() const {
    auto stat = read_file(task_path(pid, tid, "stat"), 4096);
    if (!stat) return stat.error().code == ENOENT || stat.error().code == ESRCH;
    const size_t at = stat->rfind(") ");
    return at != std::string::npos && at + 2 < stat->size() && ((*stat)[at + 2] == 'Z' || (*stat)[at + 2] == 'X');
  }

  // Bounded, if it is not patient: the thread may have gone into an uninterruptible wait, or get no processor.
  [[nodiscard]] Status wait_stop() {
    standing = event = false;
    MOSE_ASSIGN(seen, next());
    standing = true;
    event = is_event_stop(seen);
    return {};
  }

  // The signal with which the thread stands, which it must get.
  [[nodiscard]] long signal() const { return static_cast<unsigned>(seen) >> 16 == 0 && !is_call_stop(seen) ? WSTOPSIG(seen) : 0; }
  [[nodiscard]] bool resume(int request) const { return trace(request, nullptr, reinterpret_cast<void*>(signal())) == 0; }
  // To the next stop at the beginning or the end of a call.
  [[nodiscard]] Status to_call() {
    do {
      if (!resume(PTRACE_SYSCALL)) return fail_errno("PTRACE_SYSCALL");
      MOSE_TRY(wait_stop());
      if (event) return fail("the process was stopped by somebody else");
    } while (!is_call_stop(seen));
    return {};
  }
  // From a stop of another kind, which has cancelled what was asked for before, into one that a thread can be put right in.
  [[nodiscard]] Status to_event() {
    while (!event) {
      if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return fail_errno("PTRACE_INTERRUPT");
      if (!resume(PTRACE_CONT)) return fail_errno("PTRACE_CONT");
      MOSE_TRY(wait_stop());
    }
    return {};
  }

  [[nodiscard]] Status attach(bool seccomp) {
    unsigned long options = PTRACE_O_TRACESYSGOOD | (seccomp ? kPtraceSuspendSeccomp : 0);
    if (trace(PTRACE_SEIZE, nullptr, reinterpret_cast<void*>(options)) != 0) {
      return fail_errno(seccomp ? "seizing a thread with its seccomp filter suspended" : "seizing a thread");
    }
    attached = true;
    stopped_at = now();
    if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return fail_errno("PTRACE_INTERRUPT");
    MOSE_TRY(wait_stop());
    // Where a signal came first the stop that we ask for follows before its handler runs.
    MOSE_TRY(to_event());
    return is_interrupt_stop(seen) ? Status{} : Status(fail("the process is stopped"));
  }

  // Takes down what must be put back. False: the thread does not wait in a call of ours any more.
  [[nodiscard]] Result<bool> prepare() {
    if (trace(PTRACE_GETREGS, nullptr, &registers) != 0) return fail_errno("PTRACE_GETREGS");
    const auto number = static_cast<long>(registers.orig_rax);
    if (number < 0 || registers.cs != kUserCode64) return false;
    if (std::find(std::begin(kWaits), std::end(kWaits), number) == std::end(kWaits)) return false;
    unsigned char code[kSyscallBytes];
    iovec local{code, sizeof code};
    iovec remote{reinterpret_cast<void*>(registers.rip - kSyscallBytes), sizeof code};
    if (process_vm_readv(tid, &local, 1, &remote, 1, 0) != sizeof code || code[0] != 0x0f || code[1] != 0x05)
      return false;
    if (trace(PTRACE_GETSIGMASK, reinterpret_cast<void*>(sizeof signal_mask), &signal_mask) != 0) {
      return fail_errno("PTRACE_GETSIGMASK");
    }
    // Signals wait until the thread has its own registers again.
    uint64_t all = kEverySignal;
    if (trace(PTRACE_SETSIGMASK, reinterpret_cast<void*>(sizeof all), &all) != 0)
      return fail_errno("PTRACE_SETSIGMASK");
    prepared = true;
    return true;
  }

  [[nodiscard]] Result<int64_t> call(long number, const std::array<uint64_t, 3>& arguments) {
    user_regs_struct now_in = call_registers(registers, registers.rip - kSyscallBytes, number, {arguments[0], arguments[1], arguments[2], 0, 0, 0});
    if (trace(PTRACE_SETREGS, nullptr, &now_in) != 0) return fail_errno("PTRACE_SETREGS");
    calling = true;
    entered = false;
    call_number = number;
    Status made_it = to_call();
    entered = made_it.has_value();
    if (entered) made_it = to_call();
    if (!made_it) {
      recall();
      return std::unexpected(std::move(made_it.error()));
    }
    calling = false;
    if (trace(PTRACE_GETREGS, nullptr, &now_in) != 0) return fail_errno("PTRACE_GETREGS");
    return returned(now_in);
  }
  int64_t returned(const user_regs_struct& at_end) {
    const auto result = static_cast<int64_t>(at_end.rax);
    if (call_number == SYS_userfaultfd && result >= 0) made = static_cast<int>(result);
    if (call_number == SYS_close && result == 0) made = kNone;
    return result;
  }

  // The thread did not come to the call (its cgroup was frozen, say), or not out of it: back to a stop in which it can be put
  // right. The kernel takes this stop before it freezes.
  void recall() {
    if (!standing) {
      if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return;
      if (!wait_stop()) return;
    }
    account();
  }
  // In the first stop after a call that was too late. One that is only being entered is not made; what another one has done shows in
  // its result.
  void account() {
    if (!std::exchange(calling, false)) return;
    user_regs_struct here;
    if (trace(PTRACE_GETREGS, nullptr, &here) != 0) return;
    if (entered) {
      (void)returned(here);
    } else if (!event) {
      here.orig_rax = ~0ull;
      (void)trace(PTRACE_SETREGS, nullptr, &here);
    }
  }

  // A call that answered EINTR to our stop begins again, unless a signal waits: then EINTR is the answer that the
  // program must see.
  void rewind_interrupted() {
    const auto number = static_cast<long>(registers.orig_rax);
    if (static_cast<int64_t>(registers.rax) != -EINTR || !returns_eintr(number)) return;
    auto text = read_file(task_path(pid, tid, "status"), 1u << 16);
    if (!text) return;
    uint64_t pending =
        status_number(*text, "\nSigPnd:", 16).value_or(0) | status_number(*text, "\nShdPnd:", 16).value_or(0);
    if ((pending & ~signal_mask) != 0) return;
    registers.rip -= kSyscallBytes;
    registers.rax = static_cast<uint64_t>(number);
    registers.orig_rax = ~0ull;
  }

  // False: it has not done so yet.
  [[nodiscard]] bool close_made() {
    for (int tries = 0; made != kNone && is_userfaultfd(pid, tid, made); ++tries) {
      if (tries == kCloseTries) {
        log::warn("a process keeps a userfaultfd that was made in it and cannot be dumped", {{"pid", pid}});
        return true;
      }
      // From the beginning of a call that was not made its end would be taken for the beginning of this one.
      if (standing && to_event()) (void)call(SYS_close, {static_cast<uint64_t>(made), 0, 0});
      if (!standing || (made != kNone && !patient)) return false;
    }
    return true;
  }

  // From the end of a call the kernel would go straight to the program; the restart of the interrupted call is decided on
  // the way out of an event stop only. False: it has not come there yet, or has something open that it is to close.
  [[nodiscard]] bool put_back() {
    if (prepared) {
      if (!close_made()) return false;
      if (!standing || !to_event()) return false;
      rewind_interrupted();
      (void)trace(PTRACE_SETREGS, nullptr, &registers);
      (void)trace(PTRACE_SETSIGMASK, reinterpret_cast<void*>(sizeof signal_mask), &signal_mask);
    }
    (void)trace(PTRACE_DETACH, nullptr, nullptr);
    attached = false;
    return true;
  }

  // However long it takes until it stops, or ends.
  void put_back_late() {
    patient = true;
    if (!standing) {
      if (!wait_stop()) return;
      account();
    }
    if (!to_event()) return;
    // Its wait has been interrupted, and the program is not to see that.
    if (!prepared) (void)prepare();
    (void)put_back();
  }
};

// Of this thread of ours; with_borrowed_threads() stays for it.
thread_local std::optional<Seized> late;

}  // namespace

struct BorrowedThread::State : Seized {
  ~State() { release(); }
  void release() {
    if (!attached) return;
    if (!standing || !put_back()) {
      LateThreads& threads = late_threads();
      std::lock_guard lock(threads.mutex);
      threads.processes.insert(pid);
      late = *this;
    }
    attached = false;
  }
};

bool with_borrowed_threads(const std::function<void()>& work) {
  auto worked = std::make_shared<std::promise<bool>>();
  auto in_time = worked->get_future();
  std::thread thread(log::carried([&work, worked] {
    {
      const Unpreempted unpreempted;
      work();
    }
    worked->set_value(!late);
    // From here on nothing of the caller's is there any more.
    if (!late) return;
    late->put_back_late();
    LateThreads& threads = late_threads();
    std::lock_guard lock(threads.mutex);
    threads.processes.extract(late->pid);
    threads.fewer.notify_all();
  }));
  if (in_time.get()) {
    thread.join();
    return true;
  }
  thread.detach();
  return false;
}

bool wait_for_borrowed_threads(Nanoseconds bound) {
  LateThreads& threads = late_threads();
  std::unique_lock lock(threads.mutex);
  return threads.fewer.wait_for(lock, bound, [&] { return threads.processes.empty(); });
}
bool wait_for_borrowed_threads(Nanoseconds bound, std::span<const pid_t> processes) {
  LateThreads& threads = late_threads();
  std::unique_lock lock(threads.mutex);
  return threads.fewer.wait_for(lock, bound, [&] {
    return std::ranges::none_of(processes, [&](pid_t pid) { return threads.processes.contains(pid); });
  });
}

BorrowedThread::BorrowedThread(std::unique_ptr<State> state) : state_(std::move(state)) {}
BorrowedThread::BorrowedThread(BorrowedThread&&) noexcept = default;
BorrowedThread::~BorrowedThread() = default;

pid_t BorrowedThread::tid() const {
  return state_->tid;
}

Result<BorrowedThread> BorrowedThread::borrow(pid_t pid) {
  {
    LateThreads& threads = late_threads();
    std::lock_guard lock(threads.mutex);
    // It may be in a call of ours.
    if (threads.processes.contains(pid)) return std::unexpected(Error{EBUSY, "a thread of it that was borrowed before gets no processor"});
  }
  const Timestamp end = now() + kBorrowBound;
  std::optional<Error> refused;
  for (timespec pause{0, 20'000}; now() < end; pause.tv_nsec = std::min(2 * pause.tv_nsec, kLookPauseMaxNs)) {
    for (const Candidate& candidate : waiting_threads(pid)) {
      auto status = read_file(task_path(pid, candidate.tid, "status"), 1u << 16);
      if (!status) continue;
      const bool seccomp = status_number(*status, "\nSeccomp:", 10).value_or(0) != 0;
      auto state = std::make_unique<State>();
      state->pid = pid;
      state->tid = candidate.tid;
      if (Status attached = state->attach(seccomp); !attached) {
        refused = attached.error();
        state.reset();
        if (refused->code == EPERM || late) return std::unexpected(std::move(*refused));
        continue;
      }
      auto ready = state->prepare();
      if (!ready) return std::unexpected(std::move(ready.error()));
      if (*ready) return BorrowedThread(std::move(state));
    }
    MOSE_TRY(process_start_time(pid));
    nanosleep(&pause, nullptr);
  }
  if (refused) return std::unexpected(std::move(*refused));
  return std::unexpected(Error{EBUSY, "no thread of the process waits in a system call"});
}

Result<int> BorrowedThread::make_userfaultfd(int flags) {
  MOSE_ASSIGN(int64_t number, state_->call(SYS_userfaultfd, {static_cast<uint64_t>(flags), 0, 0}));
  if (number < 0) return fail_errno("userfaultfd in the process", static_cast<int>(-number));
  return static_cast<int>(number);
}

Status BorrowedThread::close_userfaultfd(int number) {
  state_->made = number;
  MOSE_ASSIGN(int64_t closed, state_->call(SYS_close, {static_cast<uint64_t>(number), 0, 0}));
  if (closed < 0) return fail_errno("close the userfaultfd in the process", static_cast<int>(-closed));
  return {};
}

Nanoseconds BorrowedThread::give_back() {
  state_->release();
  return now() - state_->stopped_at;
}

#else  // other architectures: nothing is borrowed

struct BorrowedThread::State {};
bool with_borrowed_threads(const std::function<void()>& work) {
  work();
  return true;
}
bool wait_for_borrowed_threads(Nanoseconds) {
  return true;
}
bool wait_for_borrowed_threads(Nanoseconds, std::span<const pid_t>) {
  return true;
}
BorrowedThread::BorrowedThread(std::unique_ptr<State> state) : state_(std::move(state)) {}
BorrowedThread::BorrowedThread(BorrowedThread&&) noexcept = default;
BorrowedThread::~BorrowedThread() = default;
pid_t BorrowedThread::tid() const {
  return 0;
}
Result<BorrowedThread> BorrowedThread::borrow(pid_t) {
  return std::unexpected(Error{ENOTSUP, "system calls in another process are not supported on this architecture"});
}
Result<int> BorrowedThread::make_userfaultfd(int) {
  return fail("not supported");
}
Status BorrowedThread::close_userfaultfd(int) {
  return fail("not supported");
}
Nanoseconds BorrowedThread::give_back() {
  return {};
}

#endif

}  // namespace mose
