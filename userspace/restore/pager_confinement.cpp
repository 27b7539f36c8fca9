// SPDX-License-Identifier: MIT
#include "restore/pager_confinement.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "kernel/confinement.h"
#include "kernel/userfaultfd.h"

namespace mose::restore {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // their runtime has threads and makes calls of its own, and traces the process at its end
#else
constexpr bool kSanitized = false;
#endif

// The workload's processes belong to other users: their files in /proc to begin with (DAC_OVERRIDE), their memory and descriptors
// (SYS_PTRACE), what they share by /proc/PID/map_files (CHECKPOINT_RESTORE). Threads that somebody waits for are real-time ones.
constexpr std::array kPagerCapabilities = {CAP_DAC_OVERRIDE, CAP_SYS_PTRACE, CAP_SYS_NICE, CAP_CHECKPOINT_RESTORE};

constexpr uint64_t kAll = ~uint64_t{0}, kInt = 0xffffffff;

constexpr SyscallRule::Match is(unsigned argument, uint64_t value) { return {argument, kInt, value}; }
constexpr SyscallRule::Match without(unsigned argument, uint64_t bits) { return {argument, bits, 0}; }

// What makes a process or a namespace of it, beside what must be there.
constexpr uint64_t kNotForThreads = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                    CLONE_NEWNET | CLONE_PTRACE | CLONE_VFORK;

constexpr SyscallRule kPagerCalls[] = {
    // Memory. None of it can be executed.
    {"mmap", without(2, PROT_EXEC)},
    {"mprotect", without(2, PROT_EXEC)},
    {"munmap"}, {"mremap"}, {"madvise"}, {"brk"}, {"memfd_create"},
    // Files and descriptors.
    {"openat"}, {"close"}, {"close_range"}, {"read"}, {"write"}, {"pread64"}, {"pwrite64"}, {"readv"}, {"writev"}, {"lseek"},
    {"fstat"}, {"fstatfs"}, {"statfs"}, {"newfstatat"}, {"stat"}, {"lstat"}, {"statx"}, {"access"}, {"faccessat"}, {"faccessat2"}, {"readlink"}, {"readlinkat"},
    {"getdents64"}, {"unlink"}, {"unlinkat"}, {"rename"}, {"renameat"}, {"renameat2"}, {"ftruncate"}, {"fallocate"}, {"fcntl"},
    {"dup"},
    // Waiting.
    {"poll"}, {"ppoll"}, {"select"}, {"pselect6"}, {"epoll_create1"}, {"epoll_ctl"}, {"epoll_wait"}, {"epoll_pwait"}, {"epoll_pwait2"},
    {"eventfd2"}, {"nanosleep"}, {"clock_nanosleep"}, {"clock_gettime"}, {"clock_getres"}, {"gettimeofday"}, {"time"},
    // CRIU and mosed by unix sockets, the source by TCP.
    {"socket", is(0, AF_UNIX), {1, 0xf, SOCK_STREAM}},
    {"socket", is(0, AF_INET), {1, 0xf, SOCK_STREAM}},
    {"socket", is(0, AF_INET6), {1, 0xf, SOCK_STREAM}},
    {"connect"}, {"bind"}, {"listen"}, {"accept4"}, {"shutdown"}, {"sendto"}, {"sendmsg"}, {"recvfrom"}, {"recvmsg"},
    {"setsockopt"}, {"getsockopt"}, {"getsockname"}, {"getpeername"},
    {"ioctl", is(1, FIONBIO)},
    {"ioctl", is(1, TIOCOUTQ)},
    // Threads, and their turn on a processor.
    {"clone", {0, CLONE_THREAD | CLONE_VM | kNotForThreads, CLONE_THREAD | CLONE_VM}},
    {"set_robust_list"}, {"rseq"}, {"futex"}, {"exit"}, {"exit_group"}, {"gettid"}, {"getpid"}, {"sched_yield"}, {"sched_getaffinity"},
    {"sched_setscheduler"}, {"sched_getscheduler"}, {"sched_setparam"}, {"sched_getparam"}, {"setpriority"}, {"getpriority"},
    {"prctl", is(0, PR_SET_NAME)},
    {"unshare", {0, kAll, CLONE_FILES}},  // the server's own table of descriptors
    // Signals: handlers, and an end by abort().
    {"rt_sigaction"}, {"rt_sigprocmask"}, {"rt_sigreturn"}, {"sigaltstack"}, {"tgkill"}, {"restart_syscall"},
    // Other processes: the workload's by number and memory, the guardian.
    {"pidfd_open"}, {"pidfd_send_signal"}, {"waitid"}, {"wait4"},
    {"process_vm_writev"},
    // Another guardian, and how that one gives up what it has.
    {"clone", {0, kAll, CLONE_FILES | SIGCHLD}},
    {"setsid"}, {"pause"}, {"capget"}, {"capset"}, {"seccomp"},
    {"prctl", is(0, PR_SET_DUMPABLE), is(1, 0)},
    {"prctl", is(0, PR_SET_NO_NEW_PRIVS)},
    // What libraries ask of the machine.
    {"getrandom"}, {"uname"}, {"sysinfo"}, {"prlimit64", is(0, 0), {2, kAll, 0}}, {"getuid"}, {"geteuid"}, {"getgid"}, {"getegid"},
};

constexpr SyscallRule kGuardianCalls[] = {
    {"pause"}, {"ppoll"}, {"rt_sigreturn"}, {"restart_syscall"}, {"exit_group"},
    {"write", is(0, STDERR_FILENO)}, {"getpid"},  // to tell of what is refused
};

bool has_threads() {
  struct stat tasks{};
  return ::stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink > 3;
}

// A later guardian makes itself the last to be killed for memory, which takes CAP_SYS_RESOURCE: but not below where the process
// has been with it. So it goes there and comes back without.
class LowestKillScore {
 public:
  LowestKillScore() {
    if (auto score = read_file(kFile, 16)) before_ = *score;
    if (!before_.empty()) (void)write_control(kFile, "-1000");
  }
  ~LowestKillScore() {
    if (!before_.empty()) (void)write_control(kFile, before_);
  }
  LowestKillScore(const LowestKillScore&) = delete;
  LowestKillScore& operator=(const LowestKillScore&) = delete;

 private:
  static constexpr const char* kFile = "/proc/self/oom_score_adj";
  std::string before_;
};

}  // namespace

Status begin_confinement() {
  MOSE_TRY(tell_refusals("mose-pager"));
  return forbid_dumps_and_privileges();
}

Status confine_pager() {
  if (kSanitized) {
    log::warn("the pager is not confined: it was built with a sanitizer");
    return {};
  }
  if (has_threads()) return fail("confine the pager: it has other threads already");
  std::vector<SyscallRule> calls(std::begin(kPagerCalls), std::end(kPagerCalls));
  const auto faults = uffd_service_calls();
  calls.insert(calls.end(), faults.begin(), faults.end());
  MOSE_ASSIGN(SyscallFilter filter, SyscallFilter::create(calls));
  {
    LowestKillScore lowest;
    MOSE_TRY(keep_capabilities(kPagerCapabilities));
  }
  return filter.install();
}

std::span<const SyscallRule> guardian_calls() { return kGuardianCalls; }

}  // namespace mose::restore
