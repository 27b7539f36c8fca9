// SPDX-License-Identifier: MIT
#include "kernel/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <vector>

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

constexpr uint64_t kFile = 1u << 2;
constexpr uint64_t kPresent = 1u << 3;
constexpr uint64_t kSwapped = 1u << 4;
constexpr uint64_t kZeroPage = 1u << 5;
constexpr uint64_t kGuard = 1u << 8;  // Linux 6.15

constexpr size_t kRegionsPerCall = 4096;
// 0 once the kernel has refused it.
std::atomic<uint64_t> guard_bit{kGuard};

}  // namespace

Result<Pagemap> Pagemap::open(pid_t pid) {
  std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  auto file = open_file(path, O_RDONLY);
  if (!file) {
    Error error = std::move(file.error());
    if (error.code == ENOENT) error.code = ESRCH;
    return std::unexpected(std::move(error));
  }
  return Pagemap(std::move(*file));
}

Result<PageSet> Pagemap::populated(PageRun range) const {
  PageSet set;
  std::vector<ScanRegion> regions(kRegionsPerCall);
  uint64_t at = range.first * kPageSize;
  const uint64_t end = range.end() * kPageSize;
  while (at < end) {
    const uint64_t guard = guard_bit.load(std::memory_order_relaxed);
    ScanArgument scan{};
    scan.size = sizeof(scan);
    scan.start = at;
    scan.end = end;
    scan.vec = reinterpret_cast<uint64_t>(regions.data());
    scan.vec_len = regions.size();
    scan.category_inverted = kFile | kZeroPage | guard;
    scan.category_mask = kFile | kZeroPage | guard;
    scan.category_anyof_mask = kPresent | kSwapped;
    scan.return_mask = kPresent | kSwapped;
    int count = ioctl(file_.get(), kPagemapScan, &scan);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == ESRCH) return PageSet{};  // the process has given up its memory
      if (errno == EINVAL && guard != 0) {
        guard_bit.store(0, std::memory_order_relaxed);
        continue;
      }
      if (errno == ENOTTY) return fail_errno("PAGEMAP_SCAN (needs Linux 6.7)");
      return fail_errno("PAGEMAP_SCAN");
    }
    for (int i = 0; i < count; ++i) {
      set.add({regions[i].start / kPageSize, (regions[i].end - regions[i].start) / kPageSize});
    }
    if (scan.walk_end <= at) break;
    at = scan.walk_end;
  }
  return set;
}

}  // namespace mose
