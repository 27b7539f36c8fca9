// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"

// System V objects of an ipc namespace, as /proc/sysvipc tells them.
namespace mose {

struct SystemVSegment {
  int id = -1;
  uint64_t bytes = 0;
  uint64_t attached = 0;  // mappings of it
  bool removed = false;   // it goes with the last of them
};
struct SystemVObjects {
  std::vector<SystemVSegment> segments;
  uint64_t semaphores = 0;  // sets
  uint64_t queues = 0;
};
// `ipc` is the namespace: a thread enters it for that.
[[nodiscard]] Result<SystemVObjects> system_v_objects(int ipc);
// Segment `id` goes with its last mapping.
[[nodiscard]] Status remove_segment(int ipc, int id);

}  // namespace mose
