// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace mose::agent {

// Why something was not done, as the command line says it: its exit code and one sentence that names the thing, the
// reason and what to try.
struct Refusal {
  int exit_code = 3;  // 2 unknown name or usage, 3 refused before touching anything, 1 failed
  std::string reason;
};
template <typename T>
using Answer = std::expected<T, Refusal>;

[[nodiscard]] inline std::unexpected<Refusal> refuse(std::string reason, int exit_code = 3) {
  return std::unexpected(Refusal{exit_code, std::move(reason)});
}

}  // namespace mose::agent
