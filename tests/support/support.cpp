// SPDX-License-Identifier: MIT
#include "support/support.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace mose::test {

void skip_process(std::string_view reason) {
  std::printf("SKIPPED: %.*s\n", static_cast<int>(reason.size()), reason.data());
  std::fflush(stdout);
  _exit(77);
}

bool in_full() {
  return std::getenv("MOSE_FULL") != nullptr;
}

int rounds(int sample, int full) {
  return in_full() ? full : sample;
}

}  // namespace mose::test
