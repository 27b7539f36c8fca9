// SPDX-License-Identifier: MIT
#include "kernel/write_tracking.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string>
#include <vector>

#include "base/log.h"
#include "kernel/borrowed_thread.h"
#include "kernel/lock_turns.h"
#include "kernel/pagemap.h"
#include "kernel/proc_path.h"
#include "kernel/process.h"
#include "kernel/procfs.h"
#include "kernel/uffd_range.h"

namespace mose {
namespace {

// Newer than the C library's kernel headers (Linux 6.7).
constexpr uint64_t kFeatureWpAsync = 1ull << 15;
constexpr int kUserModeOnly = 1;
constexpr int kOwnDescriptor = -1;  // in place of a number in another process
constexpr unsigned kPidfdThread = 0200;  // O_EXCL; Linux 6.9

// What one step of end() may lock: about 0.1 ms.
constexpr uint64_t kStepPages = 2048;

// The descriptor of a thread. Threads may have descriptor tables of their own, so the thread itself is asked first.
Result<Fd> fetch_descriptor(pid_t pid, pid_t tid, int number) {
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, tid, kPidfdThread)));
  if (!pidfd) pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return fail_errno("pidfd_open");
  Fd fd(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), number, 0)));
  if (!fd) return fail_errno("pidfd_getfd");
  return fd;
}

struct Made {
  Fd fd;
  int number;
};
Result<Made> make_once(pid_t pid, WriteTracking::Stop& stop) {
  MOSE_ASSIGN(BorrowedThread thread, BorrowedThread::borrow(pid));
  // Non-blocking and close-on-exec; asynchronous protection needs no right to handle faults of the kernel.
  MOSE_ASSIGN(int number, thread.make_userfaultfd(O_CLOEXEC | O_NONBLOCK | kUserModeOnly));
  auto fd = fetch_descriptor(pid, thread.tid(), number);
  auto closed = thread.close_userfaultfd(number);
  stop.borrowed = thread.give_back();
  if (!fd) return std::unexpected(std::move(fd.error()));
  // What comes too late to close it does so as soon as it can.
  if (!closed && closed.error().code != ETIMEDOUT) return std::unexpected(std::move(closed.error()));
  return Made{std::move(*fd), number};
}

Result<Made> make_inside(pid_t pid, WriteTracking::Stop& stop) {
  Result<Made> made = fail("");
  if (!with_borrowed_threads([&] { made = make_once(pid, stop); }))
    log::info("a borrowed thread gets no processor: it is put right as soon as it does", {{"pid", pid}});
  return made;
}

// Whether descriptor `number` of the process is ours.
bool is_copy(pid_t pid, int number, int ours) {
  return syscall(SYS_kcmp, pid, getpid(), KCMP_FILE, number, ours) == 0;
}

Status close_copy(pid_t pid, int number, int ours) {
  MOSE_ASSIGN(BorrowedThread thread, BorrowedThread::borrow(pid));
  if (!is_copy(pid, number, ours)) return {};  // closed meanwhile, by exec
  return thread.close_userfaultfd(number);
}

// The anonymous regions of a process in pieces of at most kStepPages populated pages; empty space in front of a page
// belongs to its piece. Nothing when the process has gone.
std::vector<PageRun> steps_of(pid_t pid) {
  std::vector<PageRun> steps;
  auto vmas = read_vmas(pid);
  auto pagemap = Pagemap::open(pid, ScanPace::gentle);
  if (!vmas || !pagemap) return steps;
  for (const Vma& vma : *vmas) {
    if (vma.kind != VmaKind::anonymous) continue;
    auto populated = pagemap->populated(vma.pages);
    if (!populated) return steps;
    uint64_t from = vma.pages.first, taken = 0;
    for (PageRun run : populated->runs()) {
      while (run.count != 0) {
        uint64_t take = std::min(run.count, kStepPages - taken);
        run = {run.first + take, run.count - take};
        taken += take;
        if (taken < kStepPages) continue;
        steps.push_back({from, run.first - from});
        from = run.first;
        taken = 0;
      }
    }
    if (from < vma.pages.end()) steps.push_back({from, vma.pages.end() - from});
  }
  return steps;
}

std::vector<PageRun> even_steps(const PageSet& pages) {
  std::vector<PageRun> steps;
  for (PageRun run : pages.runs()) {
    while (run.count != 0) {
      const uint64_t take = std::min(run.count, kStepPages);
      steps.push_back({run.first, take});
      run = {run.first + take, run.count - take};
    }
  }
  return steps;
}

Status make_asynchronous(const Fd& uffd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeatureWpAsync;
  if (ioctl(uffd.get(), UFFDIO_API, &api) != 0) return fail_errno("asynchronous write-protection (needs Linux 6.7)");
  return {};
}

}  // namespace

Result<WriteTracking> WriteTracking::of_self() {
  Fd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly)));
  if (!uffd) return fail_errno("userfaultfd");
  MOSE_TRY(make_asynchronous(uffd));
  return WriteTracking(std::move(uffd), getpid(), kOwnDescriptor);
}

Result<WriteTracking> WriteTracking::take(pid_t pid, Stop* stop) {
  Stop measured;
  auto made = make_inside(pid, measured);
  if (!made) return std::unexpected(std::move(made.error()));
  WriteTracking tracking(std::move(made->fd), pid, made->number);
  MOSE_TRY(make_asynchronous(tracking.uffd_));
  if (stop != nullptr) *stop = measured;
  return tracking;
}

WriteTracking& WriteTracking::operator=(WriteTracking&& other) noexcept {
  if (this != &other) {
    end();
    uffd_ = std::move(other.uffd_);
    pid_ = other.pid_;
    number_ = other.number_;
    shared_ = std::move(other.shared_);
  }
  return *this;
}

Status WriteTracking::add(PageRun run) {
  uffdio_register request{};
  request.range = uffd_range(run);
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (ioctl(uffd_.get(), UFFDIO_REGISTER, &request) != 0) return fail_errno("UFFDIO_REGISTER");
  return {};
}

Status WriteTracking::protect_shared(const PageSet& pages) {
  const std::vector<PageRun> steps = even_steps(pages);
  shared_ = shared_.unite(pages);
  const Unpreempted unpreempted;
  LockTurns turns;
  for (const PageRun& run : steps) {
    uffdio_writeprotect request{};
    request.range = uffd_range(run);
    request.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    const Timestamp start = now();
    // EAGAIN: its mappings are being changed at this moment.
    while (ioctl(uffd_.get(), UFFDIO_WRITEPROTECT, &request) != 0) {
      if (errno != EAGAIN && errno != EINTR) return fail_errno("UFFDIO_WRITEPROTECT");
    }
    turns.held(now() - start);
  }
  return {};
}

Result<unsigned> WriteTracking::close_copies() {
  unsigned closed = 0;
  if (number_ == kOwnDescriptor) return closed;
  MOSE_ASSIGN(ProcessHandle process, ProcessHandle::open(pid_));
  MOSE_ASSIGN(auto tree, process_tree(process));
  for (const ProcessHandle& child : tree) {
    if (child.pid() == pid_ || !is_copy(child.pid(), number_, uffd_.get())) continue;
    Status status;
    (void)with_borrowed_threads([&] { status = close_copy(child.pid(), number_, uffd_.get()); });
    if (!status && is_copy(child.pid(), number_, uffd_.get())) {
      return context("close the userfaultfd that process " + std::to_string(child.pid()) + " has inherited",
                     status.error());
    }
    ++closed;
  }
  return closed;
}

// Taking the protection off needs the address space locked for reading only: faults go on beside it. Only then the
// regions leave, piece by piece: each piece locks it for writing, but finds nothing to take off any more.
void WriteTracking::end() {
  if (!uffd_) return;
  if (number_ == kOwnDescriptor) return uffd_.reset();  // of a few pages, in no process that is dumped
  (void)close_copies();
  std::vector<PageRun> steps = steps_of(pid_);
  std::ranges::copy(even_steps(shared_), std::back_inserter(steps));
  const Unpreempted unpreempted;
  LockTurns turns;
  auto each_step = [&](auto take_off) {
    for (const PageRun& run : steps) {
      const Timestamp start = now();
      if (take_off(uffd_range(run)) != 0 && errno == ESRCH) return;
      turns.held(now() - start);
    }
  };
  each_step([&](uffdio_range range) {
    uffdio_writeprotect request{};
    request.range = range;
    return ioctl(uffd_.get(), UFFDIO_WRITEPROTECT, &request);
  });
  each_step([&](uffdio_range range) { return ioctl(uffd_.get(), UFFDIO_UNREGISTER, &range); });
  uffd_.reset();
}

}  // namespace mose
