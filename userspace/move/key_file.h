// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"

namespace mose::move {

// The text of a private key (PEM), whose file nobody but root and who runs this may read or write: else an error that says how to
// close it. The caller wipes it.
[[nodiscard]] Result<std::string> read_key_file(const std::string& path);

}  // namespace mose::move
