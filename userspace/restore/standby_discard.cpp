// SPDX-License-Identifier: MIT
#include "restore/standby_discard.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "kernel/stopped_tree.h"
#include "kernel/userfaultfd.h"
#include "restore/added_memory.h"

namespace mose::restore {
namespace {

constexpr int64_t kPidfdSelf = -10000;  // PIDFD_SELF_THREAD of linux/pidfd.h
constexpr size_t kVectorsMax = 1024;    // UIO_MAXIOV
constexpr uint64_t kTableBytes = kVectorsMax * sizeof(iovec);

bool try_discard() {
  constexpr size_t kBytes = 3 * kPageSize;
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  auto* bytes = static_cast<volatile char*>(memory);
  for (size_t at = 0; at < kBytes; at += kPageSize) bytes[at] = 'x';
  char* first = static_cast<char*>(memory);
  iovec vectors[] = {{first, kPageSize}, {first + 2 * kPageSize, kPageSize}};
  const long done = ::syscall(SYS_process_madvise, kPidfdSelf, vectors, std::size(vectors), MADV_DONTNEED, 0ul);
  const bool works = done == static_cast<long>(2 * kPageSize) && bytes[0] == 0 && bytes[kPageSize] == 'x' && bytes[2 * kPageSize] == 0;
  ::munmap(memory, kBytes);
  return works;
}

// Memory of one process that its userfaultfd does not cover for as long as this lives.
class Uncovered {
 public:
  explicit Uncovered(int uffd) : uffd_(uffd) {}
  ~Uncovered() { (void)cover(); }
  Status uncover(const std::vector<PageRun>& areas) {
    for (const PageRun& area : areas) {
      MOSE_TRY(uffd_unregister(uffd_, area));
      areas_.push_back(area);
    }
    return {};
  }
  Status cover() {
    Status status;
    for (; !areas_.empty(); areas_.pop_back())
      if (auto covered = uffd_register(uffd_, areas_.back()); !covered) status = std::move(covered);
    return status;
  }

 private:
  int uffd_;
  std::vector<PageRun> areas_;
};

// The pages of one process.
class Discarder {
 public:
  Discarder(StoppedTree& tree, const DiscardTarget& target) : tree_(tree), target_(target), pid_(target.process->pid()) {}

  // Those that stay.
  Result<PageSet> run() {
    const PageSet all = PageSet::from_runs(target_.pages);
    if (auto able = tree_.employ(pid_); !able) {
      log::info("stale pages of a process of the standby are waited for", {{"pid", pid_}, {"reason", able.error().what}});
      return all;
    }
    MOSE_ASSIGN(PageSet own, own_pages());
    // Its first call; what the kernel touches on the way is there from here on.
    MOSE_ASSIGN(auto table, AddedMemory::add(tree_, pid_, kTableBytes));
    if (!table) return all;
    MOSE_TRY(drop(all.minus(own), *table));
    MOSE_TRY(table->remove());
    return all.intersect(own);
  }

 private:
  // The kernel writes there whenever the thread returns from it, also between two of our calls.
  Result<PageSet> own_pages() const {
    MOSE_ASSIGN(StoppedTree::Area area, tree_.restartable_area(pid_));
    PageSet own;
    if (area.bytes == 0) return own;
    const uint64_t first = area.address >> kPageShift, last = (area.address + area.bytes - 1) >> kPageShift;
    own.add({first, last - first + 1});
    return own;
  }

  Status drop(const PageSet& pages, const AddedMemory& table) {
    const auto& runs = pages.runs();
    for (size_t at = 0; at < runs.size(); at += kVectorsMax) {
      const auto part = std::span(runs).subspan(at, std::min(kVectorsMax, runs.size() - at));
      MOSE_TRY(write_table(part, table));
      MOSE_TRY(tree_.enter(pid_, SYS_process_madvise, {static_cast<uint64_t>(kPidfdSelf), table.address(), part.size(), MADV_DONTNEED, 0, 0}));
      // From here to the end of the call the thread is in the kernel.
      Uncovered memory(target_.uffd);
      MOSE_TRY(memory.uncover(areas_of(part)));
      MOSE_ASSIGN(int64_t bytes, tree_.leave(pid_));
      MOSE_TRY(memory.cover());
      uint64_t wanted = 0;
      for (const PageRun& run : part) wanted += run.count * kPageSize;
      if (bytes < 0) return fail_errno("drop pages of the standby", static_cast<int>(-bytes));
      if (static_cast<uint64_t>(bytes) != wanted) return fail("the standby has dropped a part of its stale pages only");
    }
    return {};
  }

  static Status write_table(std::span<const PageRun> runs, const AddedMemory& table) {
    std::vector<iovec> vectors;
    vectors.reserve(runs.size());
    for (const PageRun& run : runs) vectors.push_back({reinterpret_cast<void*>(run.first << kPageShift), run.count * kPageSize});
    return table.write(0, std::as_bytes(std::span(vectors)));
  }

  // Registered ones with a page of `runs`.
  [[nodiscard]] std::vector<PageRun> areas_of(std::span<const PageRun> runs) const {
    std::vector<PageRun> out;
    for (const PageRun& area : target_.areas) {
      auto run = std::ranges::partition_point(runs, [&](const PageRun& r) { return r.end() <= area.first; });
      if (run != runs.end() && run->first < area.end()) out.push_back(area);
    }
    return out;
  }

  StoppedTree& tree_;
  const DiscardTarget& target_;
  pid_t pid_;
};

}  // namespace

bool can_discard_pages() {
  static const bool works = try_discard();
  return works;
}

Result<std::vector<PageSet>> discard_pages(const Cgroup& group, std::span<const DiscardTarget> targets) {
  std::vector<PageSet> kept;
  auto stopped = StoppedTree::stop(group);
  if (!stopped) {
    if (stopped.error().code == EOWNERDEAD) return std::unexpected(stopped.error());
    log::info("stale pages of the standby are waited for", {{"cgroup", group.path()}, {"reason", stopped.error().what}});
    for (const DiscardTarget& target : targets) kept.push_back(PageSet::from_runs(target.pages));
    return kept;
  }
  for (const DiscardTarget& target : targets) {
    MOSE_ASSIGN(PageSet stays, Discarder(*stopped, target).run());
    kept.push_back(std::move(stays));
  }
  MOSE_TRY(stopped->let_go());
  return kept;
}

}  // namespace mose::restore
