// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose::test {

using Json = nlohmann::ordered_json;

// Asks a memory checker, through the same connection all the time.
class CheckerClient {
 public:
  CheckerClient(Fd in, Fd out) : in_(std::move(in)), out_(std::move(out)) {}
  explicit CheckerClient(Fd socket) : in_(std::move(socket)) {}

  // An object; an error where the checker has none, or none within `bound`.
  [[nodiscard]] Result<Json> ask(const std::string& request, Nanoseconds bound = std::chrono::seconds(30));
  // Waits until every writer of these kinds has made `more` steps more than `counts` says.
  [[nodiscard]] Status wait_for_steps(const Json& counts, uint64_t more, const std::string& resting = "");

 private:
  Fd in_, out_;
  std::string text_;
};

// "store: 3 stale, ..." of what is not as it should be; empty: all is.
[[nodiscard]] std::string bad_pages(const Json& counts);

}  // namespace mose::test
