// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

namespace mose {

inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t kPageBits = kPageSize * 8;  // on a wire
inline constexpr unsigned kPageShift = 12;
inline constexpr uint64_t kTablePages = 512;  // that one page table maps, or a huge page in its place
inline constexpr uint64_t kUserPages = (uint64_t{1} << 47) >> kPageShift;  // of a process's address space

// A run of neighbouring pages of one address space: page index = virtual address / 4096.
struct PageRun {
  uint64_t first = 0;
  uint64_t count = 0;

  [[nodiscard]] uint64_t end() const { return first + count; }
  bool operator==(const PageRun&) const = default;
};

// An address space is named by the process id that its process has in its own pid namespace (the id in CRIU's images);
// it is the same on both nodes.
using SpaceId = uint32_t;
// Memory that processes share without a file (shared anonymous, memfd) is moved once, whoever maps it: each such object
// is a space of its own, numbered from here on, and its pages are counted from its beginning.
inline constexpr SpaceId kSharedSpaces = 0x80000000u;

// A set of pages of one address space as sorted, disjoint, non-empty, maximal runs. All operations keep that form.
class PageSet {
 public:
  PageSet() = default;
  // Runs in any order, overlaps allowed.
  static PageSet from_runs(std::vector<PageRun> runs);

  // Adds a run; appending in ascending order is O(1).
  void add(PageRun run);
  void remove(PageRun run);
  [[nodiscard]] bool contains(uint64_t page) const;
  // The run that contains `page`, cut to start at `page`; count 0 when the page is not in the set.
  [[nodiscard]] PageRun run_from(uint64_t page) const;
  [[nodiscard]] PageSet minus(const PageSet& other) const;
  [[nodiscard]] PageSet intersect(const PageSet& other) const;
  [[nodiscard]] PageSet unite(const PageSet& other) const;

  [[nodiscard]] const std::vector<PageRun>& runs() const { return runs_; }
  [[nodiscard]] uint64_t pages() const;
  [[nodiscard]] bool empty() const { return runs_.empty(); }
  bool operator==(const PageSet&) const = default;

 private:
  std::vector<PageRun> runs_;
};

}  // namespace mose
