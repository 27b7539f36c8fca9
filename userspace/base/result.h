// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

// Failures of the operating system and of libraries are values. An Error says what failed, on what and why, in one
// sentence; each layer adds its own words in front once, with context(). No exception leaves our code.
namespace mose {

struct Error {
  int code = 0;      // an errno where there is one, else 0
  std::string what;  // one sentence without a final full stop

  bool operator==(const Error&) const = default;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

// An error without an errno.
[[nodiscard]] std::unexpected<Error> fail(std::string what);

// The error of a system call that has just failed: "WHAT: strerror(code)". Call it before anything else can change errno.
[[nodiscard]] std::unexpected<Error> fail_errno(std::string_view what, int code = errno);

// The same error with one more layer's words in front: "WHERE: what".
[[nodiscard]] std::unexpected<Error> context(std::string_view where, Error error);

}  // namespace mose

#define MOSE_CONCAT_INNER(a, b) a##b
#define MOSE_CONCAT(a, b) MOSE_CONCAT_INNER(a, b)

// Leaves the function with the error of `expr` (a Status), if it failed.
#define MOSE_TRY(expr)                                                        \
  do {                                                                        \
    if (auto status_ = (expr); !status_) return std::unexpected(std::move(status_).error()); \
  } while (false)

// `MOSE_ASSIGN(auto fd, open_file(path));` leaves with the error, or gives the value.
#define MOSE_ASSIGN(decl, expr) MOSE_ASSIGN_INNER(MOSE_CONCAT(result_, __LINE__), decl, expr)
#define MOSE_ASSIGN_INNER(tmp, decl, expr)                       \
  auto tmp = (expr);                                             \
  if (!tmp) return std::unexpected(std::move(tmp).error());      \
  decl = std::move(*tmp)
