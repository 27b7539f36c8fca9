// SPDX-License-Identifier: MIT
#include "restore/guardian.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/directory.h"
#include "kernel/confinement.h"
#include "kernel/syscall_filter.h"
#include "restore/pager_confinement.h"
#include "restore/pager_state.h"

namespace mose::restore {
namespace {

constexpr Nanoseconds kReapBound = std::chrono::seconds(5);

// Between clone and here other threads' locks may be held for ever: system calls only.
[[noreturn]] void guard(const SyscallFilter& filter) {
  ::setsid();
  ::prctl(PR_SET_NAME, "mose-guardian", 0, 0, 0);
  for (int number = 1; number < NSIG; ++number) {
    if (number != SIGSYS) ::signal(number, SIG_IGN);  // who ignores that one dies of a refused call, and it is no end by default
  }
  // A process of a few pages that holds a whole workload's life: never the one to be killed for memory (best effort).
  if (int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); fd >= 0) {
    [[maybe_unused]] ssize_t n = ::write(fd, "-1000", 5);
    ::close(fd);
  }
  // One that cannot be confined still holds what it is for.
  if (!forbid_dumps_and_privileges() || !keep_capabilities({}) || !filter.install()) {
    constexpr std::string_view kText = "mose-guardian: error: it could not be confined\n";
    [[maybe_unused]] ssize_t n = ::write(STDERR_FILENO, kText.data(), kText.size());
  }
  for (;;) ::pause();
}

}  // namespace

Result<Guardian> Guardian::start() {
  MOSE_ASSIGN(SyscallFilter filter, SyscallFilter::create(guardian_calls()));
  auto pid = static_cast<pid_t>(
      ::syscall(SYS_clone, static_cast<unsigned long>(CLONE_FILES | SIGCHLD), nullptr, nullptr, nullptr, 0));
  if (pid < 0) return fail_errno("start the guardian");
  if (pid == 0) guard(filter);
  Guardian guardian;
  MOSE_ASSIGN(guardian.process_, ProcessHandle::open(pid));
  return guardian;
}

void Guardian::stop() {
  if (!process_.valid()) return;
  (void)process_.signal(SIGKILL);
  (void)process_.reap(kReapBound);
  process_ = ProcessHandle();
}

// It shares its descriptor table with its pager, and with nobody who takes in a dead one's children.
bool pager_lives(const GuardianList& guardians) {
  std::vector<GuardianName> all = guardians.stale;
  all.push_back(guardians.current);
  return std::ranges::any_of(all, [](const GuardianName& name) {
    auto guardian = ProcessHandle::open_same(static_cast<pid_t>(name.pid), name.start_time);
    if (!guardian) return false;
    auto parent = status_field(*guardian, "PPid");
    return parent && share_descriptors(guardian->pid(), std::atoi(parent->c_str()));
  });
}

Result<Takeover> Takeover::begin(pid_t guardian, const std::string& socket_path, const Guardian& mine) {
  Takeover takeover;
  takeover.socket_path_ = socket_path;
  takeover.mine_ = mine.name();
  MOSE_ASSIGN(takeover.list_, read_guardians(socket_path));
  const GuardianName& current = takeover.list_.current;
  if (current.pid != static_cast<uint32_t>(guardian))
    return fail("process " + std::to_string(guardian) + " is not the guardian, " + std::to_string(current.pid) + " is");
  MOSE_ASSIGN(takeover.process_, ProcessHandle::open_same(guardian, current.start_time));
  if (!takeover.process_.alive()) return fail("guardian " + std::to_string(guardian) + " has ended");
  if (takeover.list_.stale.size() == kGuardiansMax) return fail("too many takeovers of one pager were killed");
  takeover.list_.stale.push_back(takeover.mine_);
  MOSE_TRY(write_guardians(socket_path, takeover.list_));
  return takeover;
}

Status Takeover::finish() {
  GuardianList next{.current = mine_, .stale = {list_.current}};
  for (const GuardianName& name : list_.stale)
    if (!(name == mine_)) next.stale.push_back(name);
  MOSE_TRY(write_guardians(socket_path_, next));
  for (const GuardianName& name : next.stale) {
    auto process = ProcessHandle::open_same(static_cast<pid_t>(name.pid), name.start_time);
    if (!process) continue;  // gone
    (void)process->signal(SIGKILL);
    MOSE_TRY(process->wait_ended(kReapBound));
  }
  return write_guardians(socket_path_, {.current = mine_, .stale = {}});
}

Result<Fd> Takeover::take(int theirs) const {
  auto taken = process_.descriptor(theirs);
  if (!taken) return context("the guardian", taken.error());
  return taken;
}

Result<Fd> Takeover::take_memory(std::string_view name) const {
  std::string directory = "/proc/" + std::to_string(process_.pid()) + "/fd";
  Directory dir = open_directory(directory);
  if (!dir) return fail_errno("list " + directory);
  const std::array<std::string, 2> wanted = {"/memfd:" + std::string(name) + " (deleted)", "/" + std::string(name)};
  int found = -1;
  bool twice = false;
  while (dirent* entry = ::readdir(dir.get())) {
    char target[256];
    ssize_t n = ::readlinkat(::dirfd(dir.get()), entry->d_name, target, sizeof target);
    if (n < 0 || std::ranges::find(wanted, std::string_view(target, static_cast<size_t>(n))) == wanted.end()) continue;
    twice = found >= 0;
    found = std::atoi(entry->d_name);
  }
  if (found < 0) return fail("the guardian holds no memory of the name " + std::string(name));
  if (twice) return fail("the guardian holds more than one memory of the name " + std::string(name));
  return take(found);
}

Result<Fd> into_custody(Fd fd) {
  if (fd.get() >= kCustodyFdMin) return fd;
  int number = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, kCustodyFdMin);
  if (number < 0) return fail_errno("keep a userfaultfd");
  return Fd(number);
}

Result<Fd> into_custody_at(Fd fd, int number) {
  if (fd.get() == number) return fd;
  int got = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, number);
  if (got < 0) return fail_errno("keep a userfaultfd");
  Fd kept(got);
  if (got != number) return fail("descriptor number " + std::to_string(number) + " is taken");
  return kept;
}

Status Takeover::take_userfaultfds(PagerState& state) const {
  for (uint32_t i = 0; i < state.spaces(); ++i) {
    if (state.state(i) >= SpaceState::closed) continue;
    MOSE_ASSIGN(Fd theirs, take(state.uffd(i)));
    MOSE_ASSIGN(Fd kept, into_custody_at(std::move(theirs), state.uffd(i)));
    (void)kept.release();  // the table's, as in the process before
    UffdEvent left = decode(state.slot(i));
    if (left.kind != UffdEvent::Kind::fork) continue;
    // The child's descriptor, under whatever number it gets here; the message is made to say so.
    MOSE_ASSIGN(Fd child, take(left.fd));
    state.set_fork_fd(i, child.release());
  }
  return {};
}

}  // namespace mose::restore
