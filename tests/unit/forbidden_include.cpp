// SPDX-License-Identifier: MIT
// Never built: a stage that reaches for its neighbour. The test is that the compiler refuses it.
#include "base/result.h"
#include "move/page_store.h"
