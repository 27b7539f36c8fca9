// SPDX-License-Identifier: MIT
#pragma once

namespace mose {

// Inside of a loop that waits awake: tells the processor, so that its sibling on the same core gets what this one does not
// need. Tens of nanoseconds.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

}  // namespace mose
