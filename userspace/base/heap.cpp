// SPDX-License-Identifier: MIT
#include "base/heap.h"

#include <malloc.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace mose {
namespace {

// The largest that the allocator accepts: blocks up to it come from the heap.
constexpr int kMapThreshold = 32 << 20;

}  // namespace

void keep_heap(size_t bytes) {
  // A sanitizer's allocator takes these calls and does nothing.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, kMapThreshold);
  mallopt(M_TRIM_THRESHOLD, static_cast<int>(bytes) * 4);
  MOSE_CHECK(bytes < static_cast<size_t>(kMapThreshold), "a larger block would be mapped apart and given back");
  void* block = std::malloc(bytes);
  if (!block) return;
  // Whole pages only: MADV_POPULATE_WRITE maps them in one call, 0.6 us each.
  constexpr uintptr_t kPage = 4096;
  uintptr_t from = (reinterpret_cast<uintptr_t>(block) + kPage - 1) & ~(kPage - 1);
  uintptr_t to = (reinterpret_cast<uintptr_t>(block) + bytes) & ~(kPage - 1);
  if (madvise(reinterpret_cast<void*>(from), to - from, 23 /* MADV_POPULATE_WRITE */) != 0) std::memset(block, 0, bytes);
  std::free(block);
}

}  // namespace mose
