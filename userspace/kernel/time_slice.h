// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace mose {

// For how long a thread keeps its processor from one that wakes up and is owed it: 1.4 ms with two processors, 2.8 with eight and more,
// unless it says less (EEVDF's custom slices, Linux 6.12). A service that is asked 20 000 times a second waits so long
// each time that work through much memory, in our programs, has come to run before it. It costs that work hardly anything.
//
// For the calling thread, and what it starts from then on: 0.1 ms, the kernel's least. Older kernels go on as they do.
void take_short_slices();

// Nanoseconds; 0: the calling thread. 0 where the kernel knows none, or for another policy than the usual ones.
[[nodiscard]] uint64_t time_slice_ns(pid_t thread);

// While it lives, who is started by this thread has the kernel's own slices: other programs are no business of ours.
class UsualSlices {
 public:
  UsualSlices();
  ~UsualSlices();
  UsualSlices(const UsualSlices&) = delete;
  UsualSlices& operator=(const UsualSlices&) = delete;

 private:
  const bool were_short_;
};

}  // namespace mose
