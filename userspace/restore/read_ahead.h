// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "model/page_set.h"

namespace mose::restore {

// How many pages to ask for behind a page of the source that a thread waits for. They arrive after it and before the next
// one that is waited for: the more of them are touched and the longer a round trip takes, the better they pay. So far away
// some come with every page; near, where a round trip costs no more than they do, only those of somebody who goes through
// memory in order, and then more with every step.
class ReadAhead {
 public:
  ReadAhead(uint64_t far, uint64_t most) : far_(far), most_(most) {}

  // `page`: the one waited for, that is asked for by itself. `is_far`: round trips take longer than the transfer of `far`.
  uint64_t behind(uint64_t page, bool is_far) {
    auto known = std::ranges::find_if(windows_, [&](const PageRun& w) { return w.first < page && page <= w.end(); });
    const bool in_order = known != windows_.end();
    const uint64_t least = is_far ? far_ : 0;
    const uint64_t count = in_order ? std::clamp(2 * known->count, least, std::max(most_, least)) : least;
    PageRun& window = in_order ? *known : windows_[next_++ % windows_.size()];
    window = {page, 1 + count};
    return count;
  }

 private:
  uint64_t far_, most_;
  std::array<PageRun, 8> windows_{};  // asked for last, each with the page waited for: as many threads go their ways
  size_t next_ = 0;
};

}  // namespace mose::restore
