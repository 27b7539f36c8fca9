// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <vector>

#include "writers.h"

namespace mose::test {

// A process of the checker with some of the writers, a thread each, and one that looks at everything all the time.

struct Member {
  Kind kind;
  unsigned count;  // threads
};
struct PlaceOptions {
  std::vector<Member> members;
  WriterOptions writers;
  unsigned steps_per_second = 0;  // of each writer
};

// Where a region is: for whoever wants to damage it.
struct RegionPlace {
  Kind kind;
  pid_t pid = 0;
  uint64_t address = 0, pages = 0;
};
using KindCounts = std::array<Counts, kKinds>;
using KindMask = uint32_t;  // bit: Kind

// Forks it. The handle talks to it through pipes that lie within the tree; the process goes with them.
class Place {
 public:
  static Place start(const PlaceOptions& options);

  [[nodiscard]] KindCounts verify() { return ask('v', 0); }  // looks at every page first
  [[nodiscard]] KindCounts counts() { return ask('s', 0); }
  // Nothing is written by these kinds when it returns.
  void rest(KindMask kinds) { (void)ask('r', kinds); }
  void work(KindMask kinds) { (void)ask('w', kinds); }
  [[nodiscard]] std::vector<RegionPlace> regions();

 private:
  Place(int ask, int answer) : ask_(ask), answer_(answer) {}
  KindCounts ask(char order, KindMask kinds);
  int ask_, answer_;  // never closed: they end with us
};

}  // namespace mose::test
