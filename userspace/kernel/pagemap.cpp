// SPDX-License-Identifier: MIT
#include "kernel/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernel/lock_turns.h"
#include "kernel/write_tracking.h"

namespace mose {
namespace {

// Own definitions: the C library's kernel headers may be older than Linux 6.7 (documented in admin-guide/mm/pagemap).
struct ScanRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct ScanArgument {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
static_assert(sizeof(ScanArgument) == 96);
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArgument);

constexpr uint64_t kProtectMatching = 1u << 0;  // a flag; the rest are categories
constexpr uint64_t kTracked = 1u << 0;  // PAGE_IS_WPALLOWED: the region is in asynchronous write-protection mode
constexpr uint64_t kWritten = 1u << 1;
constexpr uint64_t kFile = 1u << 2;
constexpr uint64_t kPresent = 1u << 3;
constexpr uint64_t kSwapped = 1u << 4;
constexpr uint64_t kZeroPage = 1u << 5;
constexpr uint64_t kHuge = 1u << 6;
constexpr uint64_t kGuard = 1u << 8;  // Linux 6.15

constexpr size_t kRegionsPerCall = 4096;
// What is found, and walked, while the address space is locked: 0.1 to 0.4 ms. Empty space goes in larger steps, of a gigabyte
// at most: 6 ms if it is not empty after all, once.
constexpr uint64_t kStepPages = 4096, kStillStepPages = 16384, kStepPagesMax = 1u << 18;
constexpr auto kStepShort = std::chrono::microseconds(50);
// 0 once the kernel has refused it.
std::atomic<uint64_t> guard_bit{kGuard};

}  // namespace

Result<Pagemap> Pagemap::open(pid_t pid, ScanPace pace) {
  std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  auto file = open_file(path, O_RDONLY);
  if (!file) {
    Error error = std::move(file.error());
    if (error.code == ENOENT) error.code = ESRCH;
    return std::unexpected(std::move(error));
  }
  return Pagemap(std::move(*file), pace);
}

namespace {

struct Query {
  uint64_t flags = 0;
  uint64_t must = 0, must_not = 0;  // categories
  bool anything = false;  // what is not there and guard pages, too: without a bound to what is found
  uint64_t report = 0;
};

// The steps of a scan, over all of its areas.
class Steps {
 public:
  explicit Steps(ScanPace pace) : usual_(pace == ScanPace::gentle ? kStepPages : kStillStepPages), turns_(held_max(pace)) {
    if (pace == ScanPace::gentle) unpreempted_.emplace();
  }
  [[nodiscard]] uint64_t bytes() const { return pages_ * kPageSize; }
  [[nodiscard]] uint64_t pages_found_max() const { return usual_; }
  void took(Nanoseconds time) {
    pages_ = time < kStepShort ? std::min(2 * pages_, kStepPagesMax) : usual_;
    turns_.held(time);
  }

 private:
  // Who dumps a tree that stands still maps its own code into it, at one moment of the scan. Such a wait is as long as
  // what has been held, and one pause is as good for it as many.
  static Nanoseconds held_max(ScanPace pace) {
    return pace == ScanPace::gentle ? std::chrono::microseconds(100) : std::chrono::microseconds(500);
  }

  std::optional<Unpreempted> unpreempted_;
  uint64_t usual_, pages_ = usual_;
  LockTurns turns_;
};

// Runs through `range` and calls visit(run, categories). Pages are present or swapped, not guard pages.
template <typename Visit>
Status scan_range(int pagemap, PageRun range, const Query& query, Steps& steps, std::vector<ScanRegion>& regions,
                  Visit visit) {
  uint64_t at = range.first * kPageSize;
  const uint64_t end = range.end() * kPageSize;
  while (at < end) {
    const uint64_t guard = query.anything ? 0 : guard_bit.load(std::memory_order_relaxed);
    ScanArgument scan{};
    scan.size = sizeof(scan);
    scan.flags = query.flags;
    scan.start = at;
    scan.end = std::min(end, at + steps.bytes());
    scan.vec = reinterpret_cast<uint64_t>(regions.data());
    scan.vec_len = regions.size();
    scan.max_pages = query.anything ? 0 : steps.pages_found_max();
    scan.category_inverted = query.must_not | guard;
    scan.category_mask = query.must | query.must_not | guard;
    scan.category_anyof_mask = query.anything ? 0 : kPresent | kSwapped;
    scan.return_mask = query.report;
    const Timestamp start = now();
    int count = ioctl(pagemap, kPagemapScan, &scan);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == ESRCH) return {};  // the process has given up its memory
      if (errno == EINVAL && guard != 0) {
        guard_bit.store(0, std::memory_order_relaxed);
        continue;
      }
      if (errno == ENOTTY) return fail_errno("PAGEMAP_SCAN (needs Linux 6.7)");
      return fail_errno("PAGEMAP_SCAN");
    }
    for (int i = 0; i < count; ++i) {
      visit(PageRun{regions[i].start / kPageSize, (regions[i].end - regions[i].start) / kPageSize},
            regions[i].categories);
    }
    if (scan.walk_end <= at) break;
    at = scan.walk_end;
    steps.took(now() - start);
  }
  return {};
}

// Runs through all of `areas`, as scan_range() does.
template <typename Visit>
Status scan_areas(int pagemap, const PageSet& areas, const Query& query, ScanPace pace, Visit visit) {
  std::vector<ScanRegion> regions(kRegionsPerCall);
  Steps steps(pace);
  for (const PageRun& area : areas.runs()) MOSE_TRY(scan_range(pagemap, area, query, steps, regions, visit));
  return {};
}

}  // namespace

Result<PageSet> Pagemap::populated(const PageSet& areas) const {
  PageSet set;
  Query query{.must_not = kFile | kZeroPage, .report = kPresent | kSwapped};
  MOSE_TRY(scan_areas(file_.get(), areas, query, pace_, [&](PageRun run, uint64_t) { set.add(run); }));
  return set;
}

Result<PageSet> Pagemap::populated(PageRun range) const {
  PageSet area;
  area.add(range);
  return populated(area);
}

Result<Pagemap::Tracked> Pagemap::tracked(const PageSet& areas) const {
  Tracked out;
  // Whether a page belongs to a file is not asked: that takes looking at the page itself, and no anonymous one does.
  Query query{.must_not = kZeroPage, .report = kTracked | kWritten | kHuge};
  auto visit = [&](PageRun run, uint64_t categories) {
    PageSet& set = (categories & kTracked) == 0   ? out.untracked
                   : (categories & kWritten) != 0 ? out.written
                                                  : out.clean;
    set.add(run);
    if ((categories & kHuge) != 0) out.huge.add(run);
  };
  MOSE_TRY(scan_areas(file_.get(), areas, query, pace_, visit));
  return out;
}

// The kernel has a loop of its own for exactly this question. It takes what is not in a page table for written.
Result<PageSet> Pagemap::not_protected(const PageSet& areas) const {
  PageSet set;
  Query query{.must = kWritten, .anything = true, .report = kWritten};
  MOSE_TRY(scan_areas(file_.get(), areas, query, pace_, [&](PageRun run, uint64_t) { set.add(run); }));
  return set;
}

Result<bool> Pagemap::is_tracked(uint64_t page) const {
  bool tracked = false;
  Query query{.must = kTracked, .anything = true, .report = kTracked};
  MOSE_TRY(scan_areas(file_.get(), PageSet::from_runs({{page, 1}}), query, pace_, [&](PageRun, uint64_t) { tracked = true; }));
  return tracked;
}

namespace {

// Of three page tables: some pages that are there and protected, of which one is written and one given back after that;
// nothing; and pages of which all is given back after they were protected.
Result<bool> try_quick_look() {
  constexpr size_t kBytes = 4 * kTablePages * kPageSize;
  void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return fail_errno("mmap");
  const auto unmap = [](void* memory) { ::munmap(memory, kBytes); };
  const std::unique_ptr<void, decltype(unmap)> owner(at, unmap);
  const uint64_t first = (reinterpret_cast<uintptr_t>(at) / kPageSize + kTablePages - 1) / kTablePages * kTablePages;
  auto* bytes = reinterpret_cast<char*>(first * kPageSize);
  // Small pages, of which some are there.
  if (::madvise(at, kBytes, MADV_NOHUGEPAGE) != 0) return fail_errno("madvise");
  for (uint64_t page : {0, 1, 2, 1024, 1535}) *reinterpret_cast<volatile char*>(bytes + page * kPageSize) = 1;
  const PageRun run{first, 3 * kTablePages};
  MOSE_ASSIGN(WriteTracking tracking, WriteTracking::of_self());
  MOSE_TRY(tracking.add(run));
  MOSE_ASSIGN(Pagemap pagemap, Pagemap::open(::getpid()));
  MOSE_ASSIGN(PageSet protected_now, pagemap.protect(PageSet::from_runs({run})));
  *reinterpret_cast<volatile char*>(bytes + kPageSize) = 2;
  if (::madvise(bytes + 2 * kPageSize, kPageSize, MADV_DONTNEED) != 0 ||
      ::madvise(bytes + 2 * kTablePages * kPageSize, kTablePages * kPageSize, MADV_DONTNEED) != 0) {
    return fail_errno("madvise");
  }
  MOSE_ASSIGN(PageSet found, pagemap.not_protected(PageSet::from_runs({run})));
  MOSE_ASSIGN(bool tracked, pagemap.is_tracked(first));
  return protected_now.pages() == 5 && found == PageSet::from_runs({{first + 1, run.count - 1}}) && tracked;
}

}  // namespace

bool Pagemap::looks_quickly() {
  static const bool works = try_quick_look().value_or(false);
  return works;
}

Result<PageSet> Pagemap::protect(const PageSet& areas) const {
  PageSet set;
  // Only what is populated: protecting empty space would fill page tables for it.
  Query query{.flags = kProtectMatching,
              .must = kTracked | kWritten,
              .must_not = kZeroPage,
              .report = kPresent | kSwapped};
  MOSE_TRY(scan_areas(file_.get(), areas, query, ScanPace::gentle, [&](PageRun run, uint64_t) { set.add(run); }));
  return set;
}

}  // namespace mose
