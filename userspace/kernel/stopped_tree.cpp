// SPDX-License-Identifier: MIT
#include "kernel/stopped_tree.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <ranges>
#include <string>
#include <thread>
#include <utility>

#include "base/log.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"
#include "kernel/procfs.h"
#include "kernel/ptrace_stop.h"

namespace mose {

#if defined(__x86_64__)

namespace {

// They are frozen: nothing but a busy machine keeps them from standing. A call may take as long as it has pages to free.
constexpr Nanoseconds kStandBound = std::chrono::seconds(1);
constexpr Nanoseconds kFreezePause = std::chrono::microseconds(50);  // the kernel has no event for one thread
constexpr int kGetRseqConfiguration = 0x420f;
constexpr size_t kVdsoBytesMax = 16384;

struct RseqConfiguration {  // as in linux/ptrace.h
  uint64_t pointer;
  uint32_t size, signature, flags, pad;
};

// Of any instruction `syscall` in the vdso, which every process of ours has.
Result<uint64_t> call_instruction(pid_t pid) {
  MOSE_ASSIGN(std::string maps, read_file(proc_path(pid, "maps")));
  MOSE_ASSIGN(std::vector<Vma> vmas, parse_maps(maps));
  auto vdso = std::ranges::find(vmas, "[vdso]", &Vma::name);
  if (vdso == vmas.end()) return fail("process " + std::to_string(pid) + " has no vdso");
  const uint64_t start = vdso->pages.first << kPageShift;
  char code[kVdsoBytesMax];
  iovec local{code, std::min(sizeof code, vdso->pages.count * kPageSize)};
  iovec remote{reinterpret_cast<void*>(start), local.iov_len};
  const ssize_t n = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
  if (n < 0) return fail_errno("read the vdso of process " + std::to_string(pid));
  const void* at = ::memmem(code, static_cast<size_t>(n), "\x0f\x05", 2);
  if (!at) return fail("the vdso of process " + std::to_string(pid) + " has no system call");
  return start + static_cast<uint64_t>(static_cast<const char*>(at) - code);
}

bool has_filter(pid_t tid) {
  auto status = read_file(proc_path(tid, "status"), 1u << 16);
  return !status || has_seccomp_filter(*status);
}

}  // namespace

struct StoppedTree::State {
  struct Thread {
    pid_t tid = 0;
    bool attached = false;
  };
  // A thread that works for us, as it was found.
  struct Caller {
    pid_t tid = 0;
    uint64_t instruction = 0;
    user_regs_struct registers{};
    uint64_t signal_mask = 0;
  };

  explicit State(const Cgroup& in) : group(in) {}
  ~State() {
    if (!broken && let_go()) return;
    log::warn("a group of stopped processes does not freeze again: it is killed", {{"cgroup", group.path()}});
    // Nobody may go on from here: what is thawed would run.
    if (!group.kill()) for (const Thread& thread : threads) (void)::kill(thread.tid, SIGKILL);
    (void)detach();
  }

  // Into a call, or out of it.
  [[nodiscard]] static Status to_call_stop(pid_t tid) {
    if (trace(PTRACE_SYSCALL, tid, nullptr, nullptr) != 0) return fail_errno("let a thread go on with a call");
    MOSE_ASSIGN(int status, next_stop(tid, kStandBound));
    return is_call_stop(status) ? Status{} : Status(fail(fmt::format("thread {} was stopped by something else in a call ({:#x})", tid, status)));
  }

  [[nodiscard]] Status seize(pid_t process) {
    for (int tid : numbers_in(proc_path(process, "task"))) {
      const unsigned long options =
          PTRACE_O_TRACESYSGOOD | kPtraceExitKill | (tid == process && has_filter(tid) ? kPtraceSuspendSeccomp : 0);
      if (trace(PTRACE_SEIZE, tid, nullptr, reinterpret_cast<void*>(options)) != 0)
        return fail_errno("seize thread " + std::to_string(tid));
      threads.push_back({tid, true});
      if (trace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0) return fail_errno("stop thread " + std::to_string(tid));
    }
    return {};
  }

  [[nodiscard]] Status stand_all() const {
    for (const Thread& thread : threads) {
      MOSE_ASSIGN(int status, next_stop(thread.tid, kStandBound));
      // One with a signal would be lost here, and frozen threads take none.
      if (!is_interrupt_stop(status)) return fail("thread " + std::to_string(thread.tid) + " was stopped by something else");
    }
    return {};
  }

  [[nodiscard]] Result<Caller*> caller_of(pid_t process) {
    if (auto known = callers.find(process); known != callers.end()) return &known->second;
    if (std::ranges::find(threads, process, &Thread::tid) == threads.end())
      return fail("process " + std::to_string(process) + " is not in " + group.path());
    Caller caller{.tid = process};
    MOSE_ASSIGN(caller.instruction, call_instruction(process));
    if (trace(PTRACE_GETREGS, process, nullptr, &caller.registers) != 0) return fail_errno("read the registers of a thread");
    if (caller.registers.cs != kUserCode64) return fail("process " + std::to_string(process) + " is no 64-bit one");
    uint64_t& mask = caller.signal_mask;
    if (trace(PTRACE_GETSIGMASK, process, reinterpret_cast<void*>(sizeof mask), &mask) != 0)
      return fail_errno("read the signal mask of a thread");
    uint64_t all = kEverySignal;
    if (trace(PTRACE_SETSIGMASK, process, reinterpret_cast<void*>(sizeof all), &all) != 0)
      return fail_errno("hold the signals of a thread");
    return &callers.emplace(process, caller).first->second;
  }

  [[nodiscard]] Status thaw() {
    if (std::exchange(thawed, true)) return {};
    return group.thaw();
  }

  [[nodiscard]] Status enter_at(const Caller& caller, uint64_t instruction, long number, const std::array<uint64_t, 6>& arguments) {
    MOSE_TRY(thaw());
    user_regs_struct registers = call_registers(caller.registers, instruction, number, arguments);
    if (trace(PTRACE_SETREGS, caller.tid, nullptr, &registers) != 0) return fail_errno("set the registers of a thread");
    return to_call_stop(caller.tid);
  }

  // Back into a stop from which a thread goes on with whatever registers it is given.
  [[nodiscard]] static Status stand_again(const Caller& caller) {
    if (trace(PTRACE_INTERRUPT, caller.tid, nullptr, nullptr) != 0) return fail_errno("stop a thread after its calls");
    if (trace(PTRACE_CONT, caller.tid, nullptr, nullptr) != 0) return fail_errno("let a thread out of its call");
    MOSE_ASSIGN(int status, next_stop(caller.tid, kStandBound));
    return is_interrupt_stop(status) ? Status{} : Status(fail("a thread was stopped by something else after its calls"));
  }

  [[nodiscard]] Status restore(Caller& caller) const {
    MOSE_TRY(stand_again(caller));
    if (trace(PTRACE_SETREGS, caller.tid, nullptr, &caller.registers) != 0) return fail_errno("put the registers of a thread back");
    uint64_t& mask = caller.signal_mask;
    if (trace(PTRACE_SETSIGMASK, caller.tid, reinterpret_cast<void*>(sizeof mask), &mask) != 0)
      return fail_errno("put the signal mask of a thread back");
    return {};
  }

  // An error: a thread of the group stays in our hands, and its process would be killed when they let go of it.
  Status detach() {
    Status all;
    // The first thread of a process last: killed, it cannot be waited for before the others.
    for (Thread& thread : std::views::reverse(threads)) {
      if (!thread.attached) continue;
      bool gone = trace(PTRACE_DETACH, thread.tid, nullptr, nullptr) == 0;
      if (!gone) {
        auto stands = next_stop(thread.tid, kStandBound);  // one that does not stand yet
        gone = trace(PTRACE_DETACH, thread.tid, nullptr, nullptr) == 0 || (!stands && stands.error().code != ETIMEDOUT);
        if (!gone) all = fail("thread " + std::to_string(thread.tid) + " does not stop to be let go");
      }
      thread.attached = !gone;
    }
    return all;
  }

  [[nodiscard]] Status let_go() {
    if (threads.empty()) return {};
    if (broken) return fail(group.path() + " could not be put back");
    auto back = put_back();
    broken = !back;
    if (back) threads.clear();
    return back;
  }

  [[nodiscard]] Status put_back() {
    for (auto& [process, caller] : std::exchange(callers, {})) MOSE_TRY(restore(caller));
    if (thawed) MOSE_TRY(group.freeze(kStandBound));
    thawed = false;
    MOSE_TRY(detach());
    return wait_frozen();
  }

  // Each goes from our stop to that of the freezer and does not count as frozen on its way: while one has not begun to, the group does.
  [[nodiscard]] Status wait_frozen() const {
    const Timestamp deadline = now() + kStandBound;
    for (const Thread& thread : threads) {
      for (char state = state_of(thread.tid); state == 't' || state == 'R' || state == '?'; state = state_of(thread.tid)) {
        if (now() >= deadline) return fail_errno("wait until thread " + std::to_string(thread.tid) + " is frozen again", ETIMEDOUT);
        std::this_thread::sleep_for(kFreezePause);
      }
    }
    return group.wait_frozen(std::max(deadline - now(), Nanoseconds{0}));
  }

  const Cgroup& group;
  std::vector<Thread> threads;
  std::map<pid_t, Caller> callers;
  bool thawed = false;
  bool broken = false;  // could not be put back: it must not run
};

StoppedTree::StoppedTree(std::unique_ptr<State> state) : state_(std::move(state)) {}
StoppedTree::StoppedTree(StoppedTree&&) noexcept = default;
StoppedTree::~StoppedTree() = default;

Result<StoppedTree> StoppedTree::stop(const Cgroup& group) {
  MOSE_ASSIGN(bool frozen, group.frozen());
  if (!frozen) return fail(group.path() + " is not frozen");
  MOSE_ASSIGN(bool groups, group.has_groups());
  if (groups) return fail(group.path() + " has groups below it, which would be thawed with it");
  auto state = std::make_unique<State>(group);
  MOSE_ASSIGN(std::vector<pid_t> processes, group.procs());
  auto stand = [&]() -> Status {
    for (pid_t process : processes) MOSE_TRY(state->seize(process));
    return state->stand_all();
  };
  if (auto standing = stand(); !standing) {
    if (state->let_go()) return std::unexpected(standing.error());
    return std::unexpected(Error{EOWNERDEAD, standing.error().what + ", and the group does not freeze again: it is killed"});
  }
  return StoppedTree(std::move(state));
}

Status StoppedTree::employ(pid_t process) {
  MOSE_TRY(state_->caller_of(process));
  return {};
}

Result<int64_t> StoppedTree::call(pid_t process, long number, const std::array<uint64_t, 6>& arguments) {
  MOSE_TRY(enter(process, number, arguments));
  return leave(process);
}

Status StoppedTree::enter(pid_t process, long number, const std::array<uint64_t, 6>& arguments) {
  MOSE_ASSIGN(State::Caller * caller, state_->caller_of(process));
  return state_->enter_at(*caller, caller->instruction, number, arguments);
}

Status StoppedTree::run(pid_t process, uint64_t code, long number, const std::array<uint64_t, 6>& arguments) {
  MOSE_ASSIGN(State::Caller * caller, state_->caller_of(process));
  MOSE_TRY(state_->enter_at(*caller, code, number, arguments));
  return State::to_call_stop(caller->tid);
}

Result<int64_t> StoppedTree::leave(pid_t process) {
  MOSE_ASSIGN(State::Caller * caller, state_->caller_of(process));
  MOSE_TRY(State::to_call_stop(caller->tid));
  user_regs_struct registers{};
  if (trace(PTRACE_GETREGS, caller->tid, nullptr, &registers) != 0) return fail_errno("read the registers of a thread");
  return static_cast<int64_t>(registers.rax);
}

Result<StoppedTree::Area> StoppedTree::restartable_area(pid_t process) const {
  RseqConfiguration found{};
  if (trace(kGetRseqConfiguration, process, reinterpret_cast<void*>(sizeof found), &found) < 0)
    return fail_errno("read where a thread has its restartable sequences");
  return Area{found.pointer, found.pointer == 0 ? 0 : found.size};
}

Status StoppedTree::let_go() { return state_->let_go(); }

#else  // other architectures: nobody works for us

struct StoppedTree::State {};
StoppedTree::StoppedTree(std::unique_ptr<State> state) : state_(std::move(state)) {}
StoppedTree::StoppedTree(StoppedTree&&) noexcept = default;
StoppedTree::~StoppedTree() = default;
Result<StoppedTree> StoppedTree::stop(const Cgroup&) {
  return std::unexpected(Error{ENOTSUP, "system calls in another process are not supported on this architecture"});
}
Status StoppedTree::employ(pid_t) { return fail("not supported"); }
Result<int64_t> StoppedTree::call(pid_t, long, const std::array<uint64_t, 6>&) { return fail("not supported"); }
Status StoppedTree::enter(pid_t, long, const std::array<uint64_t, 6>&) { return fail("not supported"); }
Result<int64_t> StoppedTree::leave(pid_t) { return fail("not supported"); }
Status StoppedTree::run(pid_t, uint64_t, long, const std::array<uint64_t, 6>&) { return fail("not supported"); }
Result<StoppedTree::Area> StoppedTree::restartable_area(pid_t) const { return fail("not supported"); }
Status StoppedTree::let_go() { return {}; }

#endif

}  // namespace mose
