// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"
#include "restore/pager_client.h"

namespace mose::restore {

// The file <socket>.complete: the last report of a pager that has brought every page in, written before it lets go of its guardian.
// An agent that was away, and finds neither of them any more, knows by it that nothing is missing.
[[nodiscard]] std::string last_word_path(const std::string& socket_path);
// Whole or not there.
[[nodiscard]] Status write_last_word(const std::string& socket_path, const PagerStatus& status);
// ENOENT: not every page has come, as far as anybody has written down.
[[nodiscard]] Result<PagerStatus> read_last_word(const std::string& socket_path);
void remove_last_word(const std::string& socket_path);

}  // namespace mose::restore
