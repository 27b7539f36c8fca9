// SPDX-License-Identifier: MIT
#include "kernel/tree_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "kernel/pagemap.h"
#include "kernel/proc_status.h"
#include "kernel/procfs.h"
#include "kernel/stopped_tree.h"

namespace mose {
namespace {

// Of addresses: 64 MiB took 3 to 9 ms where it is dear. A huge page is in one of them.
constexpr uint64_t kPiecePages = (uint64_t{32} << 20) / kPageSize;
// Looked at together.
constexpr uint64_t kWindowPages = 32 * kPiecePages;
constexpr Nanoseconds kFreezeAgain = std::chrono::seconds(1);

// A stop by signal, as a dump leaves processes with, would come first on the way into a call. While this lives they do without.
class WithoutStop {
 public:
  explicit WithoutStop(std::vector<pid_t> processes) : processes_(std::move(processes)) { send(SIGCONT); }
  ~WithoutStop() { send(SIGSTOP); }
  WithoutStop(const WithoutStop&) = delete;
  WithoutStop& operator=(const WithoutStop&) = delete;

 private:
  // Of a frozen group: none of them ends meanwhile.
  void send(int signal) const {
    for (pid_t process : processes_) (void)::kill(process, signal);
  }
  std::vector<pid_t> processes_;
};

struct Drop {
  StoppedTree& tree;
  pid_t process;
  Timestamp deadline;
  uint64_t given = 0;

  // False: the time is over.
  Result<bool> drop(PageRun range, uint64_t pages) {
    const Timestamp begun = now();
    if (begun >= deadline) return false;
    MOSE_ASSIGN(int64_t done, tree.call(process, SYS_madvise, {range.first << kPageShift, range.count * kPageSize, MADV_DONTNEED}));
    if (done == 0) given += pages;
    std::this_thread::sleep_for(now() - begun);
    return true;
  }
  // Piece by piece of what is there.
  Result<bool> drop(const PageSet& there, PageRun within) {
    PageRun piece{0, 0};
    uint64_t pages = 0;
    auto flush = [&]() -> Result<bool> {
      if (pages == 0) return true;
      const uint64_t first = std::max(piece.first, within.first), end = std::min(piece.end(), within.end());
      return drop(PageRun{first, end - first}, std::exchange(pages, 0));
    };
    for (PageRun run : there.runs()) {
      while (run.count != 0) {
        const uint64_t first = run.first / kPiecePages * kPiecePages;
        if (first != piece.first) {
          MOSE_ASSIGN(bool on, flush());
          if (!on) return false;
        }
        piece = {first, kPiecePages};
        const uint64_t part = std::min(run.count, piece.end() - run.first);
        pages += part;
        run = {run.first + part, run.count - part};
      }
    }
    return flush();
  }
  Result<bool> drop_all() {
    MOSE_ASSIGN(std::vector<Vma> vmas, read_vmas(process));
    MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(process));
    for (const Vma& vma : vmas) {
      // The kernel refuses it of those.
      if (vma.kind != VmaKind::anonymous || vma.locked || vma.hugetlb) continue;
      for (uint64_t at = vma.pages.first; at < vma.pages.end();) {
        const uint64_t end = std::min((at / kWindowPages + 1) * kWindowPages, vma.pages.end());
        const PageRun window{at, end - at};
        MOSE_ASSIGN(PageSet there, pagemap.populated(window));
        MOSE_ASSIGN(bool on, drop(there, window));
        if (!on) return false;
        at = end;
      }
    }
    return true;
  }
};

}  // namespace

Result<uint64_t> give_memory_back(const Cgroup& group, Nanoseconds bound, uint64_t least) {
  const Timestamp deadline = now() + bound;
  MOSE_ASSIGN(bool frozen, group.frozen());
  if (!frozen) return fail(group.path() + " is not frozen");
  MOSE_ASSIGN(std::vector<pid_t> processes, group.procs());
  std::erase_if(processes, [&](pid_t process) { return resident_bytes(process).own < least; });
  if (processes.empty()) return 0;
  const WithoutStop without(processes);
  MOSE_TRY(group.wait_frozen(kFreezeAgain));
  MOSE_ASSIGN(StoppedTree stopped, StoppedTree::stop(group));
  uint64_t given = 0;
  for (pid_t process : processes) {
    if (!stopped.employ(process)) continue;
    Drop memory{stopped, process, deadline};
    MOSE_ASSIGN(bool on, memory.drop_all());
    given += memory.given;
    if (!on) break;
  }
  MOSE_TRY(stopped.let_go());
  return given;
}

}  // namespace mose
