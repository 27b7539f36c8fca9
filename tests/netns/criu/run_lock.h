// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <sys/file.h>

#include "base/fd.h"

namespace mose::test {

// Names of cgroups and directories derive from the test, so that the next run cleans up after a crashed one. Two runs at
// the same time (of two build trees) therefore go one after the other.
inline Fd wait_for_turn(const std::string& name) {
  auto file = open_file("/var/tmp/mose-test-" + name + ".lock", O_RDWR | O_CREAT, 0600);
  if (!file) return Fd();
  while (::flock(file->get(), LOCK_EX) < 0 && errno == EINTR) {
  }
  return std::move(*file);
}

}  // namespace mose::test
