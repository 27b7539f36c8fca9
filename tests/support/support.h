// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

// A test that lacks a prerequisite says why and exits 77: the runner counts it as skipped and fails where the label is
// required.
namespace mose::test {
[[noreturn]] void skip_process(std::string_view reason);
}  // namespace mose::test
