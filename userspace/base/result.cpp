// SPDX-License-Identifier: MIT
#include "base/result.h"

#include <cstring>

namespace mose {

std::unexpected<Error> fail(std::string what) { return std::unexpected(Error{0, std::move(what)}); }

std::unexpected<Error> fail_errno(std::string_view what, int code) {
  return std::unexpected(Error{code, std::string(what) + ": " + strerror(code)});
}

std::unexpected<Error> context(std::string_view where, Error error) {
  error.what = std::string(where) + ": " + error.what;
  return std::unexpected(std::move(error));
}

}  // namespace mose
