// SPDX-License-Identifier: MIT
#pragma once

// A broken invariant ends the process with its place and text; it stays on in release. Input is never a CHECK.
#define MOSE_CHECK(condition, text) \
  ((condition) ? static_cast<void>(0) : ::mose::check_failed(#condition, text, __FILE__, __LINE__))

namespace mose {
[[noreturn]] void check_failed(const char* condition, const char* text, const char* file, int line);
}  // namespace mose
