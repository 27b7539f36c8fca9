// SPDX-License-Identifier: MIT
#include "lab/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "kernel/spawn.h"

namespace mose::lab {
namespace {

constexpr Nanoseconds kExecBound = std::chrono::seconds(10);

// Tells the parent what went wrong before exec; a pipe that closes without a word means success.
[[noreturn]] void report_and_exit(int fd, const Error& error) {
  std::string text = std::to_string(error.code) + " " + error.what;
  (void)write_all(fd, text);
  ::_exit(127);
}

Status read_report(int fd) {
  MOSE_ASSIGN(std::string text, read_all(fd, 64u << 10));
  if (text.empty()) return {};
  size_t blank = text.find(' ');
  return std::unexpected(Error{std::atoi(text.c_str()), text.substr(blank + 1)});
}

Status redirect(int source, int target) {
  if (source == target) {
    int flags = ::fcntl(source, F_GETFD);
    if (flags < 0 || ::fcntl(source, F_SETFD, flags & ~FD_CLOEXEC) != 0) return fail_errno("fcntl");
    return {};
  }
  if (::dup2(source, target) < 0) return fail_errno("dup2");
  return {};
}

// In the child: everything between fork and exec. Returns only on failure.
Error become(const ProgramSpec& spec) {
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  int in = spec.in >= 0 ? spec.in : ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (auto [source, target] : {std::pair{in, 0}, std::pair{spec.out, 1}, std::pair{spec.err, 2}}) {
    if (source < 0) continue;
    if (auto s = redirect(source, target); !s) return s.error();
  }
  // What our own starter left open would be open as long as a daemon lives.
  if (::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) != 0) return fail_errno("close_range").error();
  for (auto [source, target] : spec.descriptors) {
    if (auto s = redirect(source, target); !s) return s.error();
  }
  // Of a place of the lab: an agent of the host is none of its.
  if (spec.place) ::unsetenv("MOSE_SOCKET");
  for (const std::string& entry : spec.environment) {
    size_t equals = entry.find('=');
    ::setenv(entry.substr(0, equals).c_str(), entry.c_str() + equals + 1, 1);
  }
  std::vector<char*> argv;
  argv.reserve(spec.argv.size() + 1);
  for (const std::string& a : spec.argv) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  return fail_errno("start " + spec.argv[0]).error();
}

// Cgroup, then namespaces. The cgroup first: its path means what it means to us.
Status arrive(const ProgramSpec& spec) {
  if (!spec.cgroup.empty()) MOSE_TRY(write_control(spec.cgroup + "/cgroup.procs", "0"));
  if (spec.place) MOSE_TRY(spec.place->enter());
  return {};
}

void die_with_parent(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (parent != 0 && ::getppid() != parent) ::_exit(127);  // it has gone before we asked
}

// Waits for our child and ends as it ended.
[[noreturn]] void end_like(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

[[noreturn]] void child_of_start(const ProgramSpec& spec, int report, pid_t parent) {
  if (spec.die_with_us) die_with_parent(parent);
  if (auto s = arrive(spec); !s) report_and_exit(report, s.error());
  if (!spec.place || !spec.place->pid) report_and_exit(report, become(spec));
  // Only a child is in the pid namespace that was entered.
  pid_t inner = ::fork();
  if (inner < 0) report_and_exit(report, fail_errno("fork").error());
  if (inner == 0) {
    die_with_parent(0);
    report_and_exit(report, become(spec));
  }
  ::close_range(3, ~0u, 0);  // the report, and what it is not this process's business to keep open
  end_like(inner);
}

// pid of the sender of the next byte, in our pid namespace.
Result<pid_t> receive_sender(int socket) {
  pollfd p{socket, POLLIN, 0};
  int ms = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(kExecBound).count());
  if (::poll(&p, 1, ms) <= 0) return fail("the new process does not answer");
  char byte;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (n < 0) return fail_errno("recvmsg");
  cmsghdr* head = n == 1 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (!head || head->cmsg_type != SCM_CREDENTIALS) return fail("the new process ended before it began");
  ucred credentials;
  std::memcpy(&credentials, CMSG_DATA(head), sizeof credentials);
  return credentials.pid;
}

// The daemon's father must be a process of the pid namespace, so that pid 1 of that namespace inherits it.
[[noreturn]] void child_of_daemon(const ProgramSpec& spec, int report, int hello) {
  if (auto s = arrive(spec); !s) report_and_exit(report, s.error());
  pid_t father = ::fork();
  if (father < 0) report_and_exit(report, fail_errno("fork").error());
  if (father > 0) {
    ::close(report);
    end_like(father);
  }
  pid_t daemon = ::fork();
  if (daemon < 0) report_and_exit(report, fail_errno("fork").error());
  if (daemon > 0) ::_exit(0);
  ::setsid();
  if (::send(hello, "!", 1, MSG_NOSIGNAL) != 1) report_and_exit(report, fail_errno("send").error());
  report_and_exit(report, become(spec));
}

Result<int> wait_child(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return fail_errno("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Reads both outputs until both have ended or time is up; true when they ended.
bool drain_outputs(int out, int err, ProgramResult& result, Timestamp deadline) {
  pollfd fds[2] = {{out, POLLIN, 0}, {err, POLLIN, 0}};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - now()).count();
    if (left <= 0 || (::poll(fds, 2, static_cast<int>(left)) < 0 && errno != EINTR)) return false;
    for (int i = 0; i < 2; ++i) {
      if (fds[i].fd < 0 || !fds[i].revents) continue;
      char chunk[16384];
      ssize_t n = ::read(fds[i].fd, chunk, sizeof chunk);
      std::string& into = i == 0 ? result.out : result.err;
      if (n > 0 && into.size() < kCaptureMax) into.append(chunk, static_cast<size_t>(n));
      if (n == 0 || (n < 0 && errno != EINTR)) fds[i].fd = -1;
    }
  }
  return true;
}

}  // namespace

Result<Place> Place::of_process(pid_t pid) {
  Place out;
  std::string base = "/proc/" + std::to_string(pid) + "/ns/";
  for (auto [name, fd] : {std::pair{"mnt", &out.mnt}, {"net", &out.net}, {"pid", &out.pid}, {"uts", &out.uts},
                          {"ipc", &out.ipc}}) {
    MOSE_ASSIGN(*fd, open_file(base + name, O_RDONLY));
  }
  return out;
}

Result<Place> Place::of_netns(const std::string& path) {
  Place out;
  MOSE_ASSIGN(out.net, open_file(path, O_RDONLY));
  return out;
}

Status Place::enter() const {
  for (auto [fd, type] : {std::pair{net.get(), CLONE_NEWNET}, {uts.get(), CLONE_NEWUTS}, {ipc.get(), CLONE_NEWIPC},
                          {pid.get(), CLONE_NEWPID}, {mnt.get(), CLONE_NEWNS}}) {
    if (fd >= 0 && ::setns(fd, type) != 0) return fail_errno("setns");
  }
  if (mnt && ::chdir("/") != 0) return fail_errno("chdir /");
  return {};
}

Result<ProcessHandle> start_program(const ProgramSpec& spec) {
  MOSE_ASSIGN(auto report, make_pipe());
  pid_t parent = ::getpid();
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) child_of_start(spec, report.write.get(), parent);
  report.write.reset();
  if (auto s = read_report(report.read.get()); !s) {
    auto ignored = wait_child(child);
    return std::unexpected(s.error());
  }
  return ProcessHandle::open(child);
}

Result<ProcessHandle> start_daemon(const ProgramSpec& spec) {
  MOSE_ASSIGN(auto report, make_pipe());
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return fail_errno("socketpair");
  Fd ours(sockets[0]), theirs(sockets[1]);
  int one = 1;
  if (::setsockopt(ours.get(), SOL_SOCKET, SO_PASSCRED, &one, sizeof one) != 0) return fail_errno("SO_PASSCRED");
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) child_of_daemon(spec, report.write.get(), theirs.get());
  report.write.reset();
  theirs.reset();
  auto sender = receive_sender(ours.get());
  auto failure = read_report(report.read.get());
  auto ignored = wait_child(child);
  if (!failure) return std::unexpected(failure.error());
  if (!sender) return std::unexpected(sender.error());
  return ProcessHandle::open(*sender);
}

Result<ProgramResult> run_program(ProgramSpec spec, const std::string& input, Nanoseconds bound) {
  MOSE_ASSIGN(auto in, make_pipe());
  MOSE_ASSIGN(auto out, make_pipe());
  MOSE_ASSIGN(auto err, make_pipe());
  // A pipe holds 64 KiB; what we feed to programs is far shorter, so that writing it first cannot block.
  MOSE_TRY(write_all(in.write.get(), input));
  in.write.reset();
  spec.in = in.read.get();
  spec.out = out.write.get();
  spec.err = err.write.get();
  spec.die_with_us = true;
  MOSE_ASSIGN(auto child, start_program(spec));
  out.write.reset();
  err.write.reset();
  ProgramResult result;
  bool ended = drain_outputs(out.read.get(), err.read.get(), result, now() + bound);
  if (!ended) auto ignored = child.signal(SIGKILL);
  MOSE_ASSIGN(result.exit_code, wait_child(child.pid()));
  if (!ended) return fail_errno(spec.argv[0], ETIMEDOUT);
  return result;
}

Status run_forked(const Place* place, Status (*body)(void*), void* argument) {
  MOSE_ASSIGN(auto report, make_pipe());
  pid_t parent = ::getpid();
  pid_t child = ::fork();
  if (child < 0) return fail_errno("fork");
  if (child == 0) {
    die_with_parent(parent);
    Status status = place ? place->enter() : Status{};
    if (status) status = body(argument);
    if (!status) report_and_exit(report.write.get(), status.error());
    ::_exit(0);
  }
  report.write.reset();
  auto status = read_report(report.read.get());
  MOSE_ASSIGN(int code, wait_child(child));
  if (status && code != 0) return fail("a helper process ended with status " + std::to_string(code));
  return status;
}

}  // namespace mose::lab
