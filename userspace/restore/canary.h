// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "restore/criu_setup.h"

namespace mose::restore {

// Proves at start, on a process of our own, that a dump without memory works with the installed CRIU and kernel: a small
// program with some MiB of memory in namespaces and a cgroup of its own is dumped; the images must be small and hold none
// of its memory, and it must go on afterwards.
struct CanaryResult {
  bool works = false;
  std::string criu_version;
  std::string reason;       // why not, one sentence
  double dump_ms = 0;       // request to answer
  uint64_t image_bytes = 0;
};
struct CanaryOptions {
  std::string cgroup_path;      // a group for it, made and removed
  std::string scratch;          // directory on a file system that takes device nodes, made and removed
  Nanoseconds bound{10'000'000'000};
};
[[nodiscard]] CanaryResult run_canary(const CriuSetup& setup, const CanaryOptions& options);

}  // namespace mose::restore
