// SPDX-License-Identifier: MIT
#include "kernel/time_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>

namespace mose {
namespace {

constexpr uint64_t kShortestNs = 100'000;

// struct sched_attr of the kernel in its first version: <linux/sched/types.h> does not come after <sched.h>.
struct Attributes {
  uint32_t size = sizeof(Attributes), policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t slice_ns = 0;  // of SCHED_OTHER and SCHED_BATCH
  uint64_t deadline_ns = 0, period_ns = 0;
};
static_assert(sizeof(Attributes) == 48);

std::optional<Attributes> attributes_of(pid_t thread) {
  Attributes out;
  if (::syscall(SYS_sched_getattr, thread, &out, sizeof out, 0) != 0) return std::nullopt;
  if (out.policy != SCHED_OTHER && out.policy != SCHED_BATCH) return std::nullopt;
  return out;
}

// Of the calling thread; 0: the kernel's own. Everything else stays.
void set_slice(uint64_t slice_ns) {
  auto attributes = attributes_of(0);
  if (!attributes) return;
  attributes->size = sizeof *attributes;
  attributes->slice_ns = slice_ns;
  (void)::syscall(SYS_sched_setattr, 0, &*attributes, 0);
}

}  // namespace

void take_short_slices() {
  set_slice(kShortestNs);
}

uint64_t time_slice_ns(pid_t thread) {
  const auto attributes = attributes_of(thread);
  return attributes ? attributes->slice_ns : 0;
}

UsualSlices::UsualSlices() : were_short_(time_slice_ns(0) == kShortestNs) {
  if (were_short_) set_slice(0);
}

UsualSlices::~UsualSlices() {
  if (were_short_) set_slice(kShortestNs);
}

}  // namespace mose
