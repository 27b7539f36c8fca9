// SPDX-License-Identifier: MIT
#include "restore/standby_warm.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "kernel/pagemap.h"
#include "kernel/proc_path.h"
#include "kernel/procfs.h"
#include "kernel/stopped_tree.h"
#include "restore/added_memory.h"

namespace mose::restore {

#if defined(__x86_64__)

// rdi: first entry of a table of addresses, each from and to; rsi: its end. Ends with the call that rax names.
extern "C" const char mose_touch_start[], mose_touch_end[];
asm(R"(
  .pushsection .rodata
  .globl mose_touch_start, mose_touch_end
  .hidden mose_touch_start, mose_touch_end
mose_touch_start:
1:  movq (%rdi), %rdx
    movq 8(%rdi), %r8
2:  movb (%rdx), %r9b
    addq $4096, %rdx
    cmpq %r8, %rdx
    jb 2b
    addq $16, %rdi
    cmpq %rsi, %rdi
    jb 1b
    syscall
mose_touch_end:
  .popsection
)");

namespace {

struct TableEntry {
  uint64_t from, to;
};
// As many pages at a time as take a millisecond where they are dear: nobody can break that off.
constexpr uint64_t kBatchPages = 128;
constexpr uint64_t kTableBytes = kBatchPages * sizeof(TableEntry);
// What one page costs where nothing is to be gained. 7 us against 0.05 on the machine that this was found on.
constexpr Nanoseconds kWorth = std::chrono::nanoseconds(500);
constexpr uint64_t kTrialPages = 32 * kBatchPages;
// Between two rounds of calls: with 10 ms 15 of 18 wakes of 4 GiB took less than 0.4 ms after 50 to 200 ms more, without any 27 to 50 ms.
// And not more than a twentieth of the time where there are many processes.
constexpr Nanoseconds kKeepEvery = std::chrono::milliseconds(10), kKeepLook = std::chrono::milliseconds(2);
constexpr int64_t kKeepShare = 20;
// Each processor has such tables of its own at hand. Where there are more of them, a thread stays where the scheduler has it.
constexpr long kProcessorsMax = 4;

// While it lives another thread leaves most of the processors to whoever wants them; not so much that it would not come to its turn
// within the time that StoppedTree gives it.
class Nice {
 public:
  explicit Nice(pid_t thread) : thread_(static_cast<id_t>(thread)), before_(::getpriority(PRIO_PROCESS, thread_)) {
    (void)::setpriority(PRIO_PROCESS, thread_, kNiceness);
  }
  ~Nice() { (void)::setpriority(PRIO_PROCESS, thread_, before_); }
  Nice(const Nice&) = delete;
  Nice& operator=(const Nice&) = delete;

 private:
  static constexpr int kNiceness = 10;
  const id_t thread_;
  const int before_;
};

// Our instructions in one process, and behind them their table.
class Toucher {
 public:
  // Nothing: the process may not have them.
  static Result<std::optional<Toucher>> put_in(StoppedTree& tree, pid_t process) {
    MOSE_ASSIGN(auto memory, AddedMemory::add(tree, process, kPageSize + kTableBytes));
    if (!memory) return std::nullopt;
    MOSE_TRY(memory->write(0, std::as_bytes(std::span(mose_touch_start, mose_touch_end))));
    MOSE_ASSIGN(bool executable, memory->make_executable(kPageSize));
    if (executable) return Toucher(tree, process, *memory);
    MOSE_TRY(memory->remove());
    return std::nullopt;
  }
  Status touch(std::span<const TableEntry> table) const {
    MOSE_TRY(memory_.write(kPageSize, std::as_bytes(table)));
    const uint64_t first = memory_.address() + kPageSize;
    return tree_->run(process_, memory_.address(), SYS_getpid, {first, first + table.size_bytes()});
  }
  Status remove() const { return memory_.remove(); }

 private:
  Toucher(StoppedTree& tree, pid_t process, const AddedMemory& memory) : tree_(&tree), process_(process), memory_(memory) {}
  StoppedTree* tree_;
  pid_t process_;
  AddedMemory memory_;
};

// Those that are there, in memory that the process may read.
Result<PageSet> readable_pages(const WarmTarget& target) {
  const pid_t pid = target.process->pid();
  MOSE_ASSIGN(std::string maps, read_file(proc_path(pid, "maps")));
  MOSE_ASSIGN(std::vector<Vma> vmas, parse_maps(maps));
  PageSet readable;
  for (const Vma& vma : vmas)
    if (vma.read) readable.add(vma.pages);
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(pid));
  return pagemap.populated(target.areas.intersect(readable));
}

// What is left of a set, a batch at a time.
class Batches {
 public:
  explicit Batches(const PageSet& pages) : runs_(pages.runs()) {}
  // Empty: there is no more.
  std::vector<TableEntry> next(uint64_t& pages) {
    std::vector<TableEntry> out;
    for (pages = 0; pages < kBatchPages && run_ < runs_.size();) {
      const uint64_t first = runs_[run_].first + done_, count = std::min(runs_[run_].count - done_, kBatchPages - pages);
      out.push_back({first << kPageShift, (first + count) << kPageShift});
      pages += count;
      done_ += count;
      if (done_ < runs_[run_].count) continue;
      ++run_;
      done_ = 0;
    }
    return out;
  }

 private:
  const std::vector<PageRun>& runs_;
  size_t run_ = 0;
  uint64_t done_ = 0;
};

// The processors on which a thread is put in turn, while it lives: none where they are many, or where the thread may not use all of them
// (what is put back is that it may, whichever there will be; nothing else could be told from what it had).
class Processors {
 public:
  explicit Processors(pid_t thread) : thread_(thread) {
    cpu_set_t allowed;
    const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
    if (::sched_getaffinity(thread_, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) != online || online > kProcessorsMax) return;
    for (int number = 0; online > 1 && number < CPU_SETSIZE; ++number)
      if (CPU_ISSET(number, &allowed)) numbers_.push_back(number);
  }
  [[nodiscard]] size_t count() const { return std::max<size_t>(numbers_.size(), 1); }
  // One that is away just now changes nothing.
  void use(size_t at) {
    if (numbers_.empty()) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(numbers_[at], &one);
    moved_ |= ::sched_setaffinity(thread_, sizeof one, &one) == 0;
  }
  Status put_back() {
    cpu_set_t all;
    std::memset(&all, 0xff, sizeof all);
    if (std::exchange(moved_, false) && ::sched_setaffinity(thread_, sizeof all, &all) != 0)
      return fail_errno("let thread " + std::to_string(thread_) + " use all processors again");
    return {};
  }

 private:
  pid_t thread_;
  std::vector<int> numbers_;
  bool moved_ = false;
};

void tell_left_alone(const Cgroup& group, const Error& why) {
  log::info("the standby is not warmed up", {{"cgroup", group.path()}, {"reason", why.what}});
}

}  // namespace

Result<Warmed> warm_pages(const Cgroup& group, std::span<const WarmTarget> targets, Nanoseconds bound, const std::atomic<bool>& stop,
                          Warming which) {
  Warmed out;
  const Timestamp start = now();
  auto left_alone = [&](const Error& why) {
    tell_left_alone(group, why);
    return out;
  };
  std::vector<PageSet> there;
  for (const WarmTarget& target : targets) {
    if (stop) return out;
    auto pages = readable_pages(target);
    if (!pages) return left_alone(pages.error());
    out.pages_all += pages->pages();
    there.push_back(std::move(*pages));
  }
  if (stop) return out;
  auto stopped = StoppedTree::stop(group);
  if (!stopped && stopped.error().code == EOWNERDEAD) return std::unexpected(stopped.error());
  if (!stopped) return left_alone(stopped.error());
  Nanoseconds fastest = Nanoseconds::max();  // a page, in the trial
  bool tried = which == Warming::always;
  auto over = [&] { return !out.worth || stop || now() - start >= bound; };
  for (size_t i = 0; i < targets.size() && !over(); ++i) {
    const pid_t pid = targets[i].process->pid();
    if (auto able = stopped->employ(pid); !able) {
      (void)left_alone(able.error());
      continue;
    }
    MOSE_ASSIGN(auto toucher, Toucher::put_in(*stopped, pid));
    if (!toucher) continue;
    const Nice nice(pid);
    Batches batches(there[i]);
    while (!over()) {
      uint64_t pages = 0;
      const auto table = batches.next(pages);
      if (table.empty()) break;
      const Timestamp began = now();
      MOSE_TRY(toucher->touch(table));
      out.pages += pages;
      if (tried) continue;
      // Of pages that are neighbours: others cost a cache miss as well.
      fastest = std::min(fastest, (now() - began) / static_cast<int64_t>(pages));
      tried = out.pages >= kTrialPages;
      out.worth = !tried || fastest >= kWorth;
    }
    MOSE_TRY(toucher->remove());
  }
  MOSE_TRY(stopped->let_go());
  out.judged = tried;
  out.took = now() - start;
  return out;
}

Result<uint64_t> keep_warm(const Cgroup& group, std::span<const WarmTarget> targets, const std::atomic<bool>& stop) {
  if (stop) return 0;
  auto stopped = StoppedTree::stop(group);
  if (!stopped && stopped.error().code == EOWNERDEAD) return std::unexpected(stopped.error());
  if (!stopped) {
    tell_left_alone(group, stopped.error());
    return 0;
  }
  struct Caller {
    pid_t pid;
    Processors processors;
  };
  std::vector<Caller> callers;
  for (const WarmTarget& target : targets) {
    const pid_t pid = target.process->pid();
    if (auto employed = stopped->employ(pid)) callers.push_back({pid, Processors(pid)});
    else tell_left_alone(group, employed.error());
  }
  uint64_t calls = 0;
  while (!stop && !callers.empty()) {
    const Timestamp began = now();
    for (Caller& caller : callers) {
      for (size_t i = 0; i < caller.processors.count(); ++i, ++calls) {
        caller.processors.use(i);
        MOSE_TRY(stopped->call(caller.pid, SYS_getpid, {}));
      }
    }
    const Timestamp next = now() + std::max(kKeepEvery, kKeepShare * (now() - began));
    while (!stop && now() < next) std::this_thread::sleep_for(std::min(kKeepLook, next - now()));
  }
  for (Caller& caller : callers) MOSE_TRY(caller.processors.put_back());
  MOSE_TRY(stopped->let_go());
  return calls;
}

#else
Result<Warmed> warm_pages(const Cgroup&, std::span<const WarmTarget>, Nanoseconds, const std::atomic<bool>&, Warming) { return Warmed{}; }
Result<uint64_t> keep_warm(const Cgroup&, std::span<const WarmTarget>, const std::atomic<bool>&) { return 0; }
#endif

}  // namespace mose::restore
