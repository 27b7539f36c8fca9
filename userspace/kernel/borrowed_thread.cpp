// SPDX-License-Identifier: MIT
#include "kernel/borrowed_thread.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <future>
#include <optional>
#include <string>
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

void pause_shortly() {
  timespec pause{0, 20'000};
  nanosleep(&pause, nullptr);
}

// A thread that we have seized. It may only be let go from a stop, with the registers that it was found with.
struct Seized {
  pid_t pid = 0, tid = 0;
  user_regs_struct registers{};  // as found, once it is `prepared`
  uint64_t signal_mask = 0;
  Timestamp stopped_at{};
  bool attached = false, prepared = false;
  bool standing = false;       // in a stop that we have seen,
  bool event = false;          // and in one of PTRACE_INTERRUPT's kind

  [[nodiscard]] long trace(int request, void* address, void* data) const { return mose::trace(request, tid, address, data); }

  void stopped(int status) {
    standing = true;
    event = is_event_stop(status);
  }
  // Bounded: the thread may have gone into an uninterruptible wait, or get no processor.
  [[nodiscard]] Result<int> wait_stop() {
    standing = event = false;
    MOSE_ASSIGN(int status, next_stop(tid, kBorrowBound));
    stopped(status);
    return status;
  }

  // Resumes by `request` and waits for a stop of our making; a signal on its way in is passed on.
  [[nodiscard]] Result<int> go_on(int request, bool (*wanted)(int)) {
    int signal = 0;
    for (;;) {
      if (trace(request, nullptr, reinterpret_cast<void*>(static_cast<long>(signal))) != 0) return fail_errno("ptrace");
      MOSE_ASSIGN(int status, wait_stop());
      if (wanted(status)) return status;
      if (event) return fail("the process was stopped by somebody else");
      signal = signal_of(status);
    }
  }
  [[nodiscard]] static int signal_of(int status) {
    return static_cast<unsigned>(status) >> 16 == 0 && !is_call_stop(status) ? WSTOPSIG(status) : 0;
  }
  // From another stop, which has cancelled what was asked for before.
  [[nodiscard]] Status on_to_event(int status) const {
    if (trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return fail_errno("PTRACE_INTERRUPT");
    if (trace(PTRACE_CONT, nullptr, reinterpret_cast<void*>(static_cast<long>(signal_of(status)))) != 0)
      return fail_errno("PTRACE_CONT");
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
    MOSE_ASSIGN(int status, wait_stop());
    // A signal came first: the stop that we ask for follows before its handler runs.
    if (!event) {
      MOSE_TRY(on_to_event(status));
      MOSE_ASSIGN(status, wait_stop());
    }
    return is_interrupt_stop(status) ? Status{} : Status(fail("the process is stopped"));
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
    if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != sizeof code || code[0] != 0x0f || code[1] != 0x05)
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

  // The thread did not come to a call (its cgroup was frozen, say): back to a stop in which it can be put right. The
  // kernel takes this stop before it freezes.
  void recall() {
    if (standing || trace(PTRACE_INTERRUPT, nullptr, nullptr) != 0) return;
    (void)wait_stop();
  }

  // From the end of a call the kernel would go straight to the program; the restart of the interrupted call is decided on
  // the way out of an event stop only. False: it has not come there yet.
  [[nodiscard]] bool put_back() {
    if (prepared) {
      if (!event && on_to_event(0)) (void)wait_stop();
      if (!event) return false;
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
    if (standing && !event && !on_to_event(0)) return;
    while (!event) {
      int status = 0;
      if (::waitpid(tid, &status, __WALL) < 0) {
        if (errno == EINTR) continue;
        return;
      }
      if (!WIFSTOPPED(status)) return;
      stopped(status);
      if (!event && !on_to_event(status)) return;
    }
    // Its wait has been interrupted, and the program is not to see that.
    if (!prepared) (void)prepare();
    (void)put_back();
  }
};

// Of this thread of ours: asked to stop, and not seen to. with_borrowed_threads() stays for them.
thread_local std::vector<Seized> late;
// What is to be done once they are right may come too late itself.
constexpr int kAfterwardsMax = 100;

}  // namespace

struct BorrowedThread::State : Seized {
  ~State() { release(); }
  void release() {
    if (!attached) return;
    if (!standing || !put_back()) late.push_back(*this);
    attached = false;
  }
};

bool with_borrowed_threads(const std::function<void()>& work, std::function<bool()> afterwards) {
  auto worked = std::make_shared<std::promise<bool>>();
  auto in_time = worked->get_future();
  std::thread thread(log::carried([&work, worked, afterwards = std::move(afterwards)] {
    {
      const Unpreempted unpreempted;
      work();
    }
    const bool all_right = late.empty();
    worked->set_value(all_right);
    // From here on nothing of the caller's is there any more.
    for (int i = 0; !all_right && i < kAfterwardsMax; ++i) {
      for (Seized& one : std::exchange(late, {})) one.put_back_late();
      const Unpreempted unpreempted;
      if (!afterwards || afterwards()) break;
    }
    for (Seized& one : std::exchange(late, {})) one.put_back_late();
  }));
  if (in_time.get()) {
    thread.join();
    return true;
  }
  thread.detach();
  return false;
}

BorrowedThread::BorrowedThread(std::unique_ptr<State> state) : state_(std::move(state)) {}
BorrowedThread::BorrowedThread(BorrowedThread&&) noexcept = default;
BorrowedThread::~BorrowedThread() = default;

pid_t BorrowedThread::tid() const {
  return state_->tid;
}

Result<BorrowedThread> BorrowedThread::borrow(pid_t pid) {
  const Timestamp end = now() + kBorrowBound;
  std::optional<Error> refused;
  do {
    for (const Candidate& candidate : waiting_threads(pid)) {
      auto status = read_file(task_path(pid, candidate.tid, "status"), 1u << 16);
      if (!status) continue;
      const bool seccomp = status_number(*status, "\nSeccomp:", 10).value_or(0) != 0;
      auto state = std::make_unique<State>();
      state->pid = pid;
      state->tid = candidate.tid;
      if (Status attached = state->attach(seccomp); !attached) {
        refused = attached.error();
        if (refused->code == EPERM) return std::unexpected(std::move(*refused));
        continue;
      }
      auto ready = state->prepare();
      if (!ready) return std::unexpected(std::move(ready.error()));
      if (*ready) return BorrowedThread(std::move(state));
    }
    MOSE_TRY(process_start_time(pid));
    pause_shortly();
  } while (now() < end);
  if (refused) return std::unexpected(std::move(*refused));
  return std::unexpected(Error{EBUSY, "no thread of the process waits in a system call"});
}

Result<int64_t> BorrowedThread::call(long number, const std::array<uint64_t, 3>& arguments) {
  State& s = *state_;
  user_regs_struct registers = call_registers(s.registers, s.registers.rip - kSyscallBytes, number, {arguments[0], arguments[1], arguments[2], 0, 0, 0});
  if (s.trace(PTRACE_SETREGS, nullptr, &registers) != 0) return fail_errno("PTRACE_SETREGS");
  for (int stops = 0; stops < 2; ++stops) {
    auto stop = s.go_on(PTRACE_SYSCALL, is_call_stop);
    if (!stop) {
      s.recall();
      return std::unexpected(std::move(stop.error()));
    }
  }
  if (s.trace(PTRACE_GETREGS, nullptr, &registers) != 0) return fail_errno("PTRACE_GETREGS");
  return static_cast<int64_t>(registers.rax);
}

Nanoseconds BorrowedThread::give_back() {
  state_->release();
  return now() - state_->stopped_at;
}

#else  // other architectures: nothing is borrowed

struct BorrowedThread::State {};
bool with_borrowed_threads(const std::function<void()>& work, std::function<bool()>) {
  work();
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
Result<int64_t> BorrowedThread::call(long, const std::array<uint64_t, 3>&) {
  return fail("not supported");
}
Nanoseconds BorrowedThread::give_back() {
  return {};
}

#endif

}  // namespace mose
