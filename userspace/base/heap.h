// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace mose {

// Makes the heap of this process keep `bytes` of memory that is already mapped, and use it for large blocks too.
//
// A first touch of a page costs an exception: well under 1 us on bare metal, 11-16 us on virtual machines with shadowed page
// tables. The default allocator maps and unmaps every block above 128 KiB anew, so that each copy of CRIU's images (1.2 MB)
// in a freeze cost 4-5 ms there. Call once, early, before threads are started: all of them then share one arena.
void keep_heap(size_t bytes);

}  // namespace mose
