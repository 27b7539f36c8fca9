// SPDX-License-Identifier: MIT
#pragma once

#include <linux/userfaultfd.h>

#include "model/page_set.h"

namespace mose {

inline uffdio_range uffd_range(PageRun run) {
  return {.start = run.first << kPageShift, .len = run.count << kPageShift};
}

}  // namespace mose
