// SPDX-License-Identifier: MIT
#include "region.h"

#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mose::test {
namespace {

constexpr uint64_t kStride = 0x9e3779b1;  // odd: visits every page of a power of two
constexpr uint64_t kColdEach = 8;         // one step in so many goes to the second half
constexpr uint64_t kSaidMax = 50;         // bad pages told by a process; all are counted
std::atomic<uint64_t> said{0};

// Modulo 2^64, and so modulo every smaller power of two.
constexpr uint64_t inverse_of(uint64_t odd) {
  uint64_t inverse = odd;
  for (int i = 0; i < 6; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}
static_assert(kStride * inverse_of(kStride) == 1);

// The largest index in 1..count at which the walk is at `page`, 0 for none.
uint64_t last_index(uint64_t page, uint64_t count, uint64_t size) {
  uint64_t rest = (page * inverse_of(kStride)) % size;
  if (rest > count) return 0;
  return rest + (count - rest) / size * size;
}

}  // namespace

const char* to_string(Kind kind) {
  static constexpr const char* kNames[kKinds] = {"store",      "atomic",     "read",           "heap",   "stack",
                                                 "huge",       "file",       "cold",           "advise", "remap",
                                                 "vm-thread",  "vm-process", "direct",         "fork",   "ring",
                                                 "ring-fixed", "shared",     "shared-process", "memfd",  "locked",
                                                 "segment",    "removed-segment"};
  return kNames[static_cast<size_t>(kind)];
}

uint64_t Order::page_of(uint64_t step) const {
  if (step % kColdEach == 0) return half_ + step / kColdEach * kStride % half_;
  return (step - step / kColdEach) * kStride % half_;
}

uint64_t Order::last_step(uint64_t page, uint64_t steps) const {
  if (page >= half_) return last_index(page - half_, steps / kColdEach, half_) * kColdEach;
  uint64_t index = last_index(page, steps - steps / kColdEach, half_);
  return index == 0 ? 0 : index + (index - 1) / (kColdEach - 1);
}

Region::Region(Kind k, unsigned number, uint64_t pages)
    : kind(k), order_(pages), pages_(pages), home_(home_of(k, number)) {}

uint64_t Region::home_of(Kind kind, unsigned number) {
  return 0x5a'0000'0000'0000ull + (static_cast<uint64_t>(kind) << 40) + (uint64_t{number} << 32);
}

Stamp Region::stamp_of(uint64_t page, uint64_t step) const {
  return {home_ + page * kPageBytes, step, 0, false};
}

void Region::put(uint64_t page, const Stamp& stamp) {
  make_image(stamp, image_);
  volatile uint64_t* to = page_at(page);
  for (size_t word = 0; word < kPageWords; ++word) to[word] = image_[word];
}

void Region::fill() {
  for (uint64_t page = 0; page < pages_; ++page) Region::put(page, stamp_of(page, 0));
}

void Region::step() {
  const uint64_t next = steps_ + 1, page = order_.page_of(next);
  put(page, stamp_of(page, next));
  steps_ = next;
}

void Region::check(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t page = next_check_++ % pages_;
    const Stamp expected = stamp_of(page, order_.last_step(page, steps_));
    const Verdict verdict = judge(page_at(page), expected);
    ++counts_.checks;
    uint64_t* counter = nullptr;
    switch (verdict) {
      case Verdict::good:
        continue;
      case Verdict::stale:
        counter = &counts_.stale;
        break;
      case Verdict::ahead:
        counter = &counts_.ahead;
        break;
      case Verdict::foreign:
        counter = &counts_.foreign;
        break;
      case Verdict::lost:
        counter = &counts_.lost;
        break;
      case Verdict::torn:
        counter = &counts_.torn;
        break;
    }
    ++*counter;
    if (said++ >= kSaidMax) continue;
    const uint64_t* words = page_at(page);
    say("BAD %s: page %lu of %s at %p, process %d, step %lu: expected home %#lx sequence %lu branch %lu%s, found %#lx "
        "%lu %lu",
        to_string(verdict), page, to_string(kind), static_cast<const void*>(words), getpid(), steps_, expected.home,
        expected.sequence, expected.branch, expected.empty ? " (empty)" : "", words[0], words[1], words[2]);
  }
}

void Region::add_counts(Counts& out) const {
  out.pages += pages_;
  out.steps += steps_;
  out.checks += counts_.checks;
  out.stale += counts_.stale;
  out.ahead += counts_.ahead;
  out.foreign += counts_.foreign;
  out.lost += counts_.lost;
  out.torn += counts_.torn;
}

void say(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  if (length < 0) return;
  size_t size = length < static_cast<int>(sizeof line) - 1 ? static_cast<size_t>(length) : sizeof line - 2;
  line[size++] = '\n';
  static_cast<void>(!write(STDERR_FILENO, line, size));
}

void die(const char* what) {
  say("memory-checker: %s: %s", what, strerror(errno));
  _exit(1);
}

}  // namespace mose::test
