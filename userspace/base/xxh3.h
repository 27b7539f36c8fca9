// SPDX-License-Identifier: MIT
#pragma once

// The library's XXH3 by the widest vectors of this processor: plain <xxhash.h> stays with those that every x86-64 has,
// at half the speed.
#define XXH_STATIC_LINKING_ONLY  // the size of XXH3_state_t, so that it can live on the stack
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif
