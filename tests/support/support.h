// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

// A test that lacks a prerequisite says why and exits 77: the runner counts it as skipped and fails where the label is
// required.
namespace mose::test {
[[noreturn]] void skip_process(std::string_view reason);

// How often something is done: few times by default, as often as the requirements say when MOSE_FULL is set.
[[nodiscard]] int rounds(int sample, int full);
[[nodiscard]] bool in_full();
[[nodiscard]] bool in_soak();  // MOSE_SOAK is set: hours

// One descriptor, with a byte, through a unix socket.
[[nodiscard]] bool send_descriptor(int socket, int fd);
}  // namespace mose::test
