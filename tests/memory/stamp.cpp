// SPDX-License-Identifier: MIT
#include "stamp.h"

namespace mose::test {
namespace {

constexpr size_t kHome = 0, kSequence = 1, kBranch = 2, kSum = 3, kBody = 4;

uint64_t mix(uint64_t value) {
  value *= 0x9e3779b97f4a7c15ull;
  return value ^ (value >> 29);
}

uint64_t body_seed(const uint64_t* page) {
  return mix(page[kHome] + mix(page[kSequence] + mix(page[kBranch] + 1)));
}

uint64_t sum_of(const uint64_t* page) {
  uint64_t sum = mix(page[kHome] ^ mix(page[kSequence] ^ mix(page[kBranch])));
  for (size_t word = kBody; word < kPageWords; ++word) sum = (sum + page[word]) * 0x100000001b3ull;
  return sum;
}

bool is_zero(const uint64_t* page) {
  uint64_t any = 0;
  for (size_t word = 0; word < kPageWords; ++word) any |= page[word];
  return any == 0;
}

bool is_whole(const uint64_t* page) {
  const uint64_t seed = body_seed(page);
  for (size_t word = kBody; word < kPageWords; ++word) {
    if (page[word] != (seed ^ (word * 0x9e3779b97f4a7c15ull))) return false;
  }
  return page[kSum] == sum_of(page);
}

}  // namespace

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::good:
      return "good";
    case Verdict::stale:
      return "stale";
    case Verdict::ahead:
      return "ahead";
    case Verdict::foreign:
      return "foreign";
    case Verdict::lost:
      return "lost";
    case Verdict::torn:
      return "torn";
  }
  return "?";
}

void make_image(const Stamp& stamp, PageImage& out) {
  if (stamp.empty) {
    out.fill(0);
    return;
  }
  out[kHome] = stamp.home;
  out[kSequence] = stamp.sequence;
  out[kBranch] = stamp.branch;
  const uint64_t seed = body_seed(out.data());
  for (size_t word = kBody; word < kPageWords; ++word) out[word] = seed ^ (word * 0x9e3779b97f4a7c15ull);
  out[kSum] = sum_of(out.data());
}

Verdict judge(const uint64_t* page, const Stamp& expected) {
  if (is_zero(page)) return expected.empty ? Verdict::good : Verdict::lost;
  if (!is_whole(page)) return Verdict::torn;
  if (page[kHome] != expected.home) return Verdict::foreign;
  if (expected.empty) return page[kSequence] < expected.sequence ? Verdict::stale : Verdict::ahead;
  if (page[kSequence] != expected.sequence)
    return page[kSequence] < expected.sequence ? Verdict::stale : Verdict::ahead;
  return page[kBranch] == expected.branch ? Verdict::good : Verdict::foreign;
}

}  // namespace mose::test
