// SPDX-License-Identifier: MIT
#include <unistd.h>

#include <filesystem>

#include "base/check.h"
#include "fuzz/targets.h"

namespace mose::fuzz {
namespace {

struct Scratch {
  std::string path;
  Scratch() {
    char pattern[] = "/dev/shm/mose-fuzz-XXXXXX";
    const char* made = mkdtemp(pattern);
    MOSE_CHECK(made != nullptr, "a directory in /dev/shm");
    path = made;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

const std::string& scratch_directory() {
  static const Scratch scratch;
  return scratch.path;
}

}  // namespace mose::fuzz
