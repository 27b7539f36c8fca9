// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// What every page of the memory checker holds: whose it is, when it was written, and a body that follows from both.
// What a page should hold is never read from the page: the caller works it out from the steps of its writer.
namespace mose::test {

inline constexpr size_t kPageBytes = 4096;
inline constexpr size_t kPageWords = kPageBytes / sizeof(uint64_t);
using PageImage = std::array<uint64_t, kPageWords>;

struct Stamp {
  uint64_t home = 0;      // address of the page in its region's own numbering, which no remapping changes
  uint64_t sequence = 0;  // step of its writer
  uint64_t branch = 0;    // 0, or the number of the forked process that wrote it
  bool empty = false;     // given back: reads as zero

  bool operator==(const Stamp&) const = default;
};

enum class Verdict : uint8_t {
  good,
  stale,    // what it was earlier, whole
  ahead,    // what it will be later, whole: the writer's count of steps is the stale one
  foreign,  // another page, another branch, or anything where nothing should be
  lost,     // zero where something should be
  torn,     // no page as a whole
};
[[nodiscard]] const char* to_string(Verdict verdict);

void make_image(const Stamp& stamp, PageImage& out);
[[nodiscard]] Verdict judge(const uint64_t* page, const Stamp& expected);

}  // namespace mose::test
