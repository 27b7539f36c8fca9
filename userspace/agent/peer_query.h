// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "agent/journal.h"
#include "base/result.h"
#include "move/hello.h"
#include "plan/protocol.h"

namespace mose::agent {

// Blocking: asks the source of a migration, on a QUERY connection, how it was decided.
[[nodiscard]] Result<plan::Verdict> ask_verdict(const JournalMeta& meta, move::Hello hello, Nanoseconds bound);
[[nodiscard]] std::string encode_verdict(plan::Verdict verdict);

// Bytes as hex text and back, for values that stand in a journal.
[[nodiscard]] std::string to_hex(const std::string& bytes);
[[nodiscard]] Result<std::string> from_hex(const std::string& text);

}  // namespace mose::agent
