// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <deque>

#include "region.h"

namespace mose::test {

// A region whose process forks now and then: the children share its pages, write their own copies of some, and look at
// all of them. A child has no other thread and no lock: what it is asked comes through a pipe, and it goes with the
// pipe.
class Family final : public Region {
 public:
  explicit Family(unsigned number);

  void rest() override;
  void work() override;
  // What the children have counted; they look at all their pages first when `verify`. With the lock held.
  void add_children(bool verify, Counts& out);

 private:
  struct Child {
    pid_t pid = 0;
    int ask = -1, answer = -1;
    Counts last;
  };
  void put(uint64_t page, const Stamp& stamp) override;
  [[nodiscard]] Stamp stamp_of(uint64_t page, uint64_t step) const override;
  void fork_child();
  [[noreturn]] void live(int orders, int answers);
  // 'v' look at everything, 's' only tell, 'r' and 'w' rest and work, 'x' end.
  Counts ask(Child& child, char order);

  std::deque<Child> children_;
  Counts gone_;  // of children that have ended
  uint64_t branch_ = 0, branch_from_ = 0, branches_ = 0;
};

}  // namespace mose::test
