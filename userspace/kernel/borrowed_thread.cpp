// SPDX-License-Identifier: MIT
#include "kernel/borrowed_thread.h"

#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "kernel/lock_turns.h"
#include "kernel/proc_path.h"
#include "kernel/proc_status.h"
#include "kernel/procfs.h"
#include "kernel/seized_thread.h"

namespace mose {

#if defined(__x86_64__)

namespace {

constexpr long kLookPauseMaxNs = 1'000'000;

struct Candidate {
  pid_t tid = 0;
  size_t rank = 0;
};

// The threads that wait in a call that can be interrupted now, best first.
std::vector<Candidate> waiting_threads(pid_t pid) {
  std::vector<Candidate> out;
  for (pid_t tid : numbers_in(proc_path(pid, "task"))) {
    auto text = read_file(thread_path(pid, tid, "syscall"), 4096);
    if (!text) continue;
    long number = -1;  // "running", or "-1 ..." when it is blocked outside a system call
    if (std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc{}) continue;
    if (auto rank = place_among_waits(number)) out.push_back({tid, *rank});
  }
  std::stable_sort(out.begin(), out.end(), [](const Candidate& a, const Candidate& b) { return a.rank < b.rank; });
  return out;
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

// Of this thread of ours; with_borrowed_threads() stays for it.
thread_local std::optional<SeizedThread> late;

}  // namespace

struct BorrowedThread::State {
  State(pid_t pid, pid_t tid) : thread(pid, tid) {}
  ~State() { release(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  void release() {
    if (std::exchange(released, true) || !thread.attached() || thread.put_back()) return;
    LateThreads& threads = late_threads();
    std::lock_guard lock(threads.mutex);
    threads.processes.insert(thread.pid());
    late = thread;
  }

  SeizedThread thread;
  bool released = false;
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
    threads.processes.extract(late->pid());
    threads.fewer.notify_all();
  }));
  if (in_time.get()) {
    thread.join();
    return true;
  }
  thread.detach();
  return false;
}

namespace {

bool wait_until(Nanoseconds bound, const std::function<bool(const std::multiset<pid_t>&)>& right) {
  LateThreads& threads = late_threads();
  std::unique_lock lock(threads.mutex);
  return threads.fewer.wait_for(lock, bound, [&] { return right(threads.processes); });
}

}  // namespace

bool wait_for_borrowed_threads(Nanoseconds bound) {
  return wait_until(bound, [](const auto& late_ones) { return late_ones.empty(); });
}
bool wait_for_borrowed_threads(Nanoseconds bound, std::span<const pid_t> processes) {
  return wait_until(bound, [&](const auto& late_ones) {
    return std::ranges::none_of(processes, [&](pid_t pid) { return late_ones.contains(pid); });
  });
}

BorrowedThread::BorrowedThread(std::unique_ptr<State> state) : state_(std::move(state)) {}
BorrowedThread::BorrowedThread(BorrowedThread&&) noexcept = default;
BorrowedThread::~BorrowedThread() = default;

pid_t BorrowedThread::tid() const {
  return state_->thread.tid();
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
      auto status = read_file(thread_path(pid, candidate.tid, "status"), 1u << 16);
      if (!status) continue;
      auto state = std::make_unique<State>(pid, candidate.tid);
      if (Status attached = state->thread.attach(has_seccomp_filter(*status)); !attached) {
        refused = attached.error();
        state.reset();
        if (refused->code == EPERM || late) return std::unexpected(std::move(*refused));
        continue;
      }
      auto ready = state->thread.prepare();
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
  MOSE_ASSIGN(int64_t number, state_->thread.call(SYS_userfaultfd, {static_cast<uint64_t>(flags), 0, 0}));
  if (number < 0) return fail_errno("userfaultfd in the process", static_cast<int>(-number));
  return static_cast<int>(number);
}

Status BorrowedThread::close_userfaultfd(int number) {
  state_->thread.note_made(number);
  MOSE_ASSIGN(int64_t closed, state_->thread.call(SYS_close, {static_cast<uint64_t>(number), 0, 0}));
  if (closed < 0) return fail_errno("close the userfaultfd in the process", static_cast<int>(-closed));
  return {};
}

Nanoseconds BorrowedThread::give_back() {
  state_->release();
  return now() - state_->thread.stopped_at();
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
