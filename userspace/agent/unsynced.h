// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace mose::agent {

// Files and directories that were changed and are not known to be on their disk yet.
class Unsynced {
 public:
  // One that was written, or the directory in which one was made or removed. Nothing of the descriptor itself is kept. Naming one again at once
  // is fine.
  void add(int changed);
  // More than can be named.
  void add_all() { more_ = true; }
  [[nodiscard]] bool all() const { return more_; }
  // All of them, which lie on the file system of `root`. What many have changed is left to one call for the whole file system, that waits for what
  // others have written there as well.
  [[nodiscard]] Status sync(int root);

 private:
  static constexpr size_t kOneByOneMax = 64;
  std::vector<Fd> changed_;
  std::pair<dev_t, ino_t> last_{};  // the last one, as stat names it; zeros: none
  bool more_ = false;
};

}  // namespace mose::agent
