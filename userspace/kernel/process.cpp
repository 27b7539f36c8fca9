// SPDX-License-Identifier: MIT
#include "kernel/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <thread>

#include "base/directory.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"
#include "kernel/tracers.h"

namespace mose {
namespace {

// Field `index` (from 1) of /proc/PID/stat, index > 2. The name in field 2 may hold blanks and parentheses.
Result<uint64_t> stat_field(pid_t pid, unsigned index) {
  MOSE_ASSIGN(std::string text, read_file(proc_path(pid, "stat"), 4096));
  size_t at = text.rfind(')');
  if (at == std::string::npos) return fail("/proc/PID/stat has no name");
  for (unsigned field = 2; field < index; ++field) {
    at = text.find(' ', at + 1);
    if (at == std::string::npos) return fail("/proc/PID/stat is too short");
  }
  uint64_t value = 0;
  const char* begin = text.data() + at + 1;
  if (std::from_chars(begin, text.data() + text.size(), value).ec != std::errc{})
    return fail("/proc/PID/stat has no number in field " + std::to_string(index));
  return value;
}

int poll_ms(Nanoseconds bound) {
  if (bound.count() <= 0) return 0;
  auto ms = std::chrono::ceil<std::chrono::milliseconds>(bound).count();
  return ms > 1'000'000'000 ? 1'000'000'000 : static_cast<int>(ms);
}

// True: ended within `bound`.
Result<bool> poll_pidfd(int fd, Nanoseconds bound) {
  Timestamp deadline = now() + bound;
  for (;;) {
    pollfd p{fd, POLLIN, 0};
    int n = ::poll(&p, 1, poll_ms(deadline - now()));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return fail_errno("wait for a process");
    if (n == 0 || now() >= deadline) return false;
  }
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> out;
  Directory dir = open_directory(proc_path(pid, "task"));
  if (!dir) return out;  // ended meanwhile
  while (dirent* entry = ::readdir(dir.get())) {
    if (entry->d_name[0] == '.') continue;
    auto text = read_file(proc_path(pid, "task/") + entry->d_name + "/children");
    if (!text) continue;  // a thread that has ended meanwhile
    const char* at = text->data();
    const char* end = at + text->size();
    while (at < end) {
      pid_t child = 0;
      auto [next, ec] = std::from_chars(at, end, child);
      if (ec == std::errc{} && child > 0) out.push_back(child);
      at = next + 1;
    }
  }
  return out;
}

int clone_flag(NamespaceKind kind) {
  switch (kind) {
    case NamespaceKind::net: return CLONE_NEWNET;
    case NamespaceKind::ipc: return CLONE_NEWIPC;
    case NamespaceKind::uts: return CLONE_NEWUTS;
    case NamespaceKind::mnt: return CLONE_NEWNS;
    case NamespaceKind::pid: return CLONE_NEWPID;
    case NamespaceKind::user: return CLONE_NEWUSER;
    case NamespaceKind::cgroup: return CLONE_NEWCGROUP;
    case NamespaceKind::time: return 0x80;  // CLONE_NEWTIME, missing in older libc headers
  }
  return 0;
}

// Its number may be another's. EPERM says that it is there: who may not signal it asks as well.
bool reaped(int pidfd) { return ::syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0u) < 0 && errno == ESRCH; }

}  // namespace

Result<ProcessHandle> ProcessHandle::open(pid_t pid) {
  int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0u));
  if (fd < 0) return fail_errno("open process " + std::to_string(pid));
  Fd pidfd(fd);
  auto start = stat_field(pid, 22);
  if (!start) {
    if (start.error().code == ENOENT || start.error().code == ESRCH) return fail_errno("open process " + std::to_string(pid), ESRCH);
    return context("open process " + std::to_string(pid), std::move(start).error());
  }
  // The number may have been given to another process between the two steps, but only if the first one has been reaped,
  // and then its pidfd answers ESRCH.
  if (reaped(pidfd.get())) return fail_errno("open process " + std::to_string(pid), ESRCH);
  return ProcessHandle(std::move(pidfd), pid, *start);
}

Result<ProcessHandle> ProcessHandle::open_same(pid_t pid, uint64_t start_time) {
  MOSE_ASSIGN(ProcessHandle process, open(pid));
  if (process.start_time_ != start_time) return fail_errno("process " + std::to_string(pid) + " is another one now", ESRCH);
  return process;
}

bool ProcessHandle::alive() const {
  if (!valid()) return false;
  auto ended = poll_pidfd(pidfd_.get(), Nanoseconds{0});
  return ended && !*ended;
}

Status ProcessHandle::signal(int number) const {
  if (!valid()) return fail_errno("signal a process", ESRCH);
  if (::syscall(SYS_pidfd_send_signal, pidfd_.get(), number, nullptr, 0u) < 0)
    return fail_errno("signal " + std::to_string(number) + " to process " + std::to_string(pid_));
  return {};
}

Status ProcessHandle::wait_ended(Nanoseconds bound) const {
  if (!valid()) return {};
  MOSE_ASSIGN(bool ended, poll_pidfd(pidfd_.get(), bound));
  if (!ended) return fail_errno("wait for process " + std::to_string(pid_), ETIMEDOUT);
  return {};
}

Result<ProcessHandle::Exit> ProcessHandle::reap(Nanoseconds bound) const {
  MOSE_TRY(wait_ended(bound));
  siginfo_t info{};
  int rc;
  do {
    rc = ::waitid(P_PIDFD, static_cast<id_t>(pidfd_.get()), &info, WEXITED | WNOHANG);
  } while (rc < 0 && errno == EINTR);
  if (rc < 0) return fail_errno("reap process " + std::to_string(pid_));
  return Exit{info.si_code != CLD_EXITED, info.si_status};
}

Result<Fd> ProcessHandle::descriptor(int number) const {
  Fd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd_.get(), number, 0u)));
  if (!copy) return fail_errno("take descriptor " + std::to_string(number) + " of process " + std::to_string(pid_));
  return copy;
}

Result<ProcessHandle> ProcessHandle::share() const {
  MOSE_ASSIGN(Fd copy, duplicate(pidfd_.get()));
  return ProcessHandle(std::move(copy), pid_, start_time_);
}

bool share_descriptors(pid_t a, pid_t b) { return ::syscall(SYS_kcmp, a, b, KCMP_FILES, 0, 0) == 0; }

std::string describe(const ProcessHandle::Exit& exit) {
  return (exit.signalled ? "signal " : "exit status ") + std::to_string(exit.value);
}

Result<std::vector<ProcessHandle>> process_tree(const ProcessHandle& root) {
  // Without this file every process would look childless.
  if (::access("/proc/thread-self/children", R_OK) < 0) return fail_errno("list children (CONFIG_PROC_CHILDREN)");
  std::vector<ProcessHandle> out;
  MOSE_ASSIGN(ProcessHandle first, root.share());
  out.push_back(std::move(first));
  for (size_t i = 0; i < out.size(); ++i) {
    for (pid_t child : children_of(out[i].pid())) {
      auto handle = ProcessHandle::open(child);
      if (!handle) {
        if (handle.error().code == ESRCH) continue;
        return std::unexpected(std::move(handle).error());
      }
      if (out.size() == kTreeProcessesMax) return fail("more than " + std::to_string(kTreeProcessesMax) + " processes in the tree");
      out.push_back(std::move(*handle));
    }
  }
  return out;
}

Result<std::string> status_field(const ProcessHandle& process, const std::string& name) {
  MOSE_ASSIGN(std::string text, read_file(proc_path(process.pid(), "status"), 65536));
  if (!process.valid() || reaped(process.fd()))
    return fail_errno("process " + std::to_string(process.pid()), ESRCH);
  auto value = status_value(text, name);
  if (!value) return fail("no field " + name + " in /proc/PID/status");
  return std::string(*value);
}

Result<pid_t> virtual_pid(const ProcessHandle& process) {
  MOSE_ASSIGN(std::vector<pid_t> numbers, numbers_of(process.pid()));
  if (!process.valid() || reaped(process.fd())) return fail_errno("process " + std::to_string(process.pid()), ESRCH);
  return numbers.back();
}

std::vector<EndedChild> ended_children() {
  std::vector<EndedChild> out;
  for (pid_t pid : children_of(::getpid())) {
    auto process = ProcessHandle::open(pid);
    if (process && !process->alive()) out.push_back({pid, process->start_time()});
  }
  return out;
}

bool reap_child(const EndedChild& child) {
  auto process = ProcessHandle::open_same(child.pid, child.start_time);
  return process && process->reap(Nanoseconds(0)).has_value();
}

Status wait_untraced(const std::vector<ProcessHandle>& processes, Nanoseconds bound) {
  return wait_untraced(processes, bound, {});
}

Result<pid_t> parent_pid(const ProcessHandle& process) {
  MOSE_ASSIGN(uint64_t value, stat_field(process.pid(), 4));
  return static_cast<pid_t>(value);
}

const char* to_string(NamespaceKind kind) {
  switch (kind) {
    case NamespaceKind::net: return "net";
    case NamespaceKind::ipc: return "ipc";
    case NamespaceKind::uts: return "uts";
    case NamespaceKind::time: return "time";
    case NamespaceKind::mnt: return "mnt";
    case NamespaceKind::pid: return "pid";
    case NamespaceKind::user: return "user";
    case NamespaceKind::cgroup: return "cgroup";
  }
  return "unknown";
}

Result<Fd> open_namespace(const ProcessHandle& process, NamespaceKind kind) {
  MOSE_ASSIGN(Fd fd, open_file(proc_path(process.pid(), "ns/") + to_string(kind), O_RDONLY));
  if (reaped(process.fd())) return fail_errno("namespace of process " + std::to_string(process.pid()), ESRCH);
  return fd;
}

Result<Fd> own_namespace(NamespaceKind kind) {
  return open_file(std::string("/proc/thread-self/ns/") + to_string(kind), O_RDONLY);
}

Result<Fd> new_namespace(NamespaceKind kind) {
  if (kind != NamespaceKind::net && kind != NamespaceKind::ipc && kind != NamespaceKind::uts)
    return fail(std::string("a fresh namespace of kind ") + to_string(kind) + " cannot be made this way");
  Result<Fd> out = fail("not run");
  std::thread([&] {
    if (::unshare(clone_flag(kind)) < 0)
      out = fail_errno(std::string("make a namespace of kind ") + to_string(kind));
    else
      out = own_namespace(kind);
  }).join();
  return out;
}

Status set_hostname(int uts, const std::string& name) {
  Status status;
  std::thread([&] {
    if (::setns(uts, CLONE_NEWUTS) != 0 || ::sethostname(name.c_str(), name.size()) != 0)
      status = fail_errno("set the host name \"" + name + "\"");
  }).join();
  return status;
}

Result<bool> same_namespace(int a, int b) {
  struct stat sa{}, sb{};
  if (::fstat(a, &sa) < 0 || ::fstat(b, &sb) < 0) return fail_errno("compare namespaces");
  return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

}  // namespace mose
