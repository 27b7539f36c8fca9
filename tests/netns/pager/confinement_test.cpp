// SPDX-License-Identifier: MIT
// What a pager and its guardian can still do: what they are for, and nothing else. By the table of the real ones, in a process
// that tries the rest; and what the kernel says of the running ones.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <cstring>
#include <functional>
#include <thread>

#include "kernel/confinement.h"
#include "kernel/process.h"
#include "netns/pager/process_bed.h"
#include "restore/guardian.h"
#include "restore/pager_confinement.h"
#include "restore/tree_process.h"

namespace mose::test {
namespace {

using PagerConfinement = PagerProcessBed;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

constexpr uint64_t kKept = 1ull << CAP_DAC_OVERRIDE | 1ull << CAP_SYS_PTRACE | 1ull << CAP_SYS_NICE | 1ull << CAP_CHECKPOINT_RESTORE;

struct Attempt {
  const char* call;  // as the refusal names it
  std::function<long()> make;
};

// Each would do something for root; none of them is what a pager is for.
std::vector<Attempt> attempts() {
  static char* const no_arguments[] = {nullptr};
  return {
      {"execve", [] { return ::syscall(SYS_execve, "/bin/true", no_arguments, no_arguments); }},
      {"execveat", [] { return ::syscall(SYS_execveat, AT_FDCWD, "/bin/true", no_arguments, no_arguments, 0); }},
      {"clone", [] { return ::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0); }},
      {"fork", [] { return ::syscall(SYS_fork); }},
      {"ptrace", [] { return ::syscall(SYS_ptrace, PTRACE_ATTACH, ::getppid(), 0, 0); }},
      {"process_vm_readv", [] { return ::syscall(SYS_process_vm_readv, ::getppid(), nullptr, 0, nullptr, 0, 0); }},
      {"pidfd_getfd", [] { return ::syscall(SYS_pidfd_getfd, 0, 0, 0); }},
      {"kill", [] { return ::syscall(SYS_kill, ::getppid(), 0); }},
      {"mount", [] { return ::syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, nullptr); }},
      {"fsopen", [] { return ::syscall(SYS_fsopen, "tmpfs", 0); }},
      {"unshare", [] { return ::syscall(SYS_unshare, CLONE_NEWNS); }},
      {"setns", [] { return ::syscall(SYS_setns, 0, 0); }},
      {"chroot", [] { return ::syscall(SYS_chroot, "/tmp"); }},
      {"bpf", [] { return ::syscall(SYS_bpf, BPF_PROG_GET_NEXT_ID, nullptr, 0); }},
      {"perf_event_open", [] { return ::syscall(SYS_perf_event_open, nullptr, 0, -1, -1, 0); }},
      {"init_module", [] { return ::syscall(SYS_init_module, nullptr, 0, ""); }},
      {"io_uring_setup", [] { return ::syscall(SYS_io_uring_setup, 1, nullptr); }},
      {"userfaultfd", [] { return ::syscall(SYS_userfaultfd, 0); }},
      {"open_by_handle_at", [] { return ::syscall(SYS_open_by_handle_at, AT_FDCWD, nullptr, 0); }},
      {"mknodat", [] { return ::syscall(SYS_mknodat, AT_FDCWD, "/tmp/x", 0600, 0); }},
      {"socket", [] { return ::syscall(SYS_socket, AF_NETLINK, SOCK_RAW, 0); }},
      {"socket", [] { return ::syscall(SYS_socket, AF_PACKET, SOCK_RAW, 0); }},
      {"socket", [] { return ::syscall(SYS_socket, AF_INET, SOCK_RAW, 1); }},
      {"ioctl", [] { return ::syscall(SYS_ioctl, 0, TIOCSTI, "x"); }},
      {"mmap", [] { return ::syscall(SYS_mmap, nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }},
      {"prctl", [] { return ::syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }},
      {"prlimit64", [] { return ::syscall(SYS_prlimit64, ::getppid(), 0, nullptr, nullptr); }},
      {"setuid", [] { return ::syscall(SYS_setuid, 65534); }},
  };
}

// Runs `inside` in a child whose standard error comes back; false of it, or a death, is a failure.
std::string told_by_child(const std::function<bool()>& inside) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::_exit(inside() ? 0 : 1);
  }
  ::close(ends[1]);
  const Fd reader(ends[0]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = ::read(reader.get(), buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status << "\n" << text;
  return text;
}

uint64_t capabilities(uint32_t pid, const std::string& field) {
  auto process = ProcessHandle::open(static_cast<pid_t>(pid));
  auto text = process ? status_field(*process, field) : Result<std::string>(fail("gone"));
  return text ? std::strtoull(text->c_str(), nullptr, 16) : ~uint64_t{0};
}

std::string field_of(uint32_t pid, const std::string& field) {
  auto process = ProcessHandle::open(static_cast<pid_t>(pid));
  return process ? status_field(*process, field).value_or("") : "";
}

TEST_F(PagerConfinement, EveryOtherCallIsRefusedAndTold) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's runtime is not confined";
  const std::string told = told_by_child([] {
    if (!restore::begin_confinement() || !restore::confine_pager()) return false;
    for (const Attempt& attempt : attempts()) {
      errno = 0;
      if (attempt.make() != -1 || errno != EPERM) {
        const std::string line = std::string(attempt.call) + " was not refused: " + std::strerror(errno) + "\n";
        if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return false;
      }
    }
    return true;
  });
  EXPECT_EQ(told.find("was not refused"), std::string::npos) << told;
  size_t at = 0;
  for (const Attempt& attempt : attempts()) {
    at = told.find(std::string(kRefusalText) + " call=" + attempt.call + " ", at);
    ASSERT_NE(at, std::string::npos) << attempt.call << " was not told\n" << told;
    ++at;
  }
}

TEST_F(PagerConfinement, WhatItIsForGoesOn) {
  const std::string told = told_by_child([] {
    if (!restore::begin_confinement() || !restore::confine_pager()) return false;
    bool ran = false;
    std::thread([&ran] { ran = true; }).join();
    const Fd stream(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Fd memory(::memfd_create("x", MFD_CLOEXEC));
    restore::Guardian guardian = std::move(restore::Guardian::start().value());
    return ran && stream.valid() && memory.valid() && guardian.alive();
  });
  EXPECT_EQ(told, kSanitized ? told : "");
}

// Most workloads run as somebody else than root.
TEST_F(PagerConfinement, AnotherUsersProcessIsFoundAndWrittenTo) {
  auto* word = static_cast<std::atomic<uint64_t>*>(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const pid_t other = ::fork();
  if (other == 0) {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    ::prctl(PR_SET_DUMPABLE, 1);  // as an executed program is
    while (*word != 3) ::usleep(1000);
    ::_exit(0);
  }
  ASSERT_TRUE(cgroup_.add(other));
  ASSERT_TRUE(eventually([&] { return field_of(static_cast<uint32_t>(other), "Uid").starts_with("65534"); }));
  const auto space = static_cast<SpaceId>(virtual_pid(ProcessHandle::open(other).value()).value());
  const std::string told = told_by_child([&] {
    if (!restore::begin_confinement() || !restore::confine_pager()) return false;
    auto process = restore::process_of_space(cgroup_, space);
    if (!process) return ::write(STDERR_FILENO, process.error().what.data(), process.error().what.size()) < 0;
    auto memory = open_file("/proc/" + std::to_string(other) + "/mem", O_RDWR);
    auto object = ::open(("/proc/" + std::to_string(other) + "/map_files").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t value = 1;
    const iovec from{&value, sizeof value}, to{word, sizeof value};
    const bool by_file = memory && ::pwrite(memory->get(), &value, sizeof value, reinterpret_cast<off_t>(word)) == sizeof value;
    value = 3;
    return by_file && object >= 0 && ::process_vm_writev(other, &from, 1, &to, 1, 0) == sizeof value;
  });
  if (!kSanitized) {
    EXPECT_EQ(told, "");
  }
  int status = -1;
  EXPECT_TRUE(eventually([&] { return ::waitpid(other, &status, WNOHANG) == other; }));
  EXPECT_EQ(status, 0) << "it has not seen what was written";
  ::munmap(word, 4096);
}

// As many as an attacker likes to make: the first hundred are told.
TEST_F(PagerConfinement, RefusalsAreToldWithABound) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's runtime is not confined";
  const std::string told = told_by_child([] {
    if (!restore::begin_confinement() || !restore::confine_pager()) return false;
    for (int i = 0; i < 10'000; ++i)
      if (::syscall(SYS_kill, ::getppid(), 0) != -1) return false;
    return true;
  });
  EXPECT_EQ(std::ranges::count(told, '\n'), 100);
}

TEST_F(PagerConfinement, ThePagerKeepsFourCapabilitiesAndItsGuardianNone) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's runtime is not confined";
  const uint64_t ours = capabilities(static_cast<uint32_t>(::getpid()), "CapPrm");
  start_pager(100, 0, 3600'000);
  const auto pager = static_cast<uint32_t>(pager_.pid());
  const uint32_t first = client_->status().guardian_pid;
  for (const char* field : {"CapEff", "CapPrm"}) EXPECT_EQ(capabilities(pager, field), kKept & ours) << field;
  EXPECT_EQ(capabilities(pager, "CapBnd") & ~kKept, 0u);
  EXPECT_EQ(capabilities(pager, "CapInh"), 0u);

  // The first guardian was started before the pager was confined, the second one after it.
  ASSERT_EQ(::kill(static_cast<pid_t>(first), SIGKILL), 0);
  auto is_confined = [](uint32_t pid) { return field_of(pid, "NoNewPrivs") == "1" && field_of(pid, "Seccomp") == "2"; };
  ASSERT_TRUE(until([&] {
    (void)client_->ask_status();
    return client_->status().guardian_pid != first;
  }));
  const uint32_t second = client_->status().guardian_pid;
  EXPECT_TRUE(is_confined(pager));
  // It begins with the pager's filter, and its own is the last that it puts on.
  const int filters = std::stoi(field_of(pager, "Seccomp_filters")) + 1;
  EXPECT_TRUE(eventually([&] { return is_confined(second) && std::stoi(field_of(second, "Seccomp_filters")) == filters; }));
  for (const char* field : {"CapEff", "CapPrm", "CapInh"}) EXPECT_EQ(capabilities(second, field), 0u) << field;
  EXPECT_EQ(capabilities(second, "CapBnd") & ~kKept, 0u);
}

TEST_F(PagerConfinement, TheFirstGuardianHasNoneEither) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's runtime is not confined";
  start_pager(100, 0, 3600'000);
  const uint32_t guardian = client_->status().guardian_pid;
  ASSERT_TRUE(eventually([&] { return field_of(guardian, "Seccomp") == "2"; }));
  for (const char* field : {"CapEff", "CapPrm", "CapInh", "CapBnd"}) EXPECT_EQ(capabilities(guardian, field), 0u) << field;
  EXPECT_EQ(field_of(guardian, "NoNewPrivs"), "1");
}

// No core file holds a workload's memory or a key: the kernel says so by whose its files in /proc are.
TEST_F(PagerConfinement, NeitherLeavesACoreFileOrIsReadByAnotherUser) {
  start_pager(100, 0, 3600'000);
  for (uint32_t pid : {static_cast<uint32_t>(pager_.pid()), client_->status().guardian_pid}) {
    const pid_t stranger = ::fork();
    if (stranger == 0) {
      // The same user without its capabilities: for who may be dumped that is enough.
      if (!keep_capabilities({})) ::_exit(2);
      const std::string path = "/proc/" + std::to_string(pid) + "/maps";
      ::_exit(::open(path.c_str(), O_RDONLY | O_CLOEXEC) < 0 && (errno == EACCES || errno == EPERM) ? 0 : 1);
    }
    int status = 0;
    ::waitpid(stranger, &status, 0);
    EXPECT_EQ(status, 0) << "process " << pid << " may be read";
  }
}

}  // namespace
}  // namespace mose::test
