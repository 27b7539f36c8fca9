// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose::test {

// One TCP connection of a lab's client to the service that is moved. Blocking; whoever waits longer than kAnswerBound
// for bytes to go or to come gets an error, and the connection is of no more use after any error.
class TextConnection {
 public:
  static constexpr Nanoseconds kAnswerBound = std::chrono::seconds(20);

  TextConnection() = default;
  // From the network namespace at the path `netns`. `patience`: how long a server may take until it listens; zero: one
  // try.
  [[nodiscard]] static Result<TextConnection> open(const std::string& netns, uint16_t port, Nanoseconds patience);

  [[nodiscard]] Status send(std::string_view bytes);
  [[nodiscard]] Result<std::string> line();  // without its end, "\n" or "\r\n"
  [[nodiscard]] Result<std::string> bytes(size_t count);

 private:
  explicit TextConnection(Fd socket) : socket_(std::move(socket)) {}
  Status receive();

  Fd socket_;
  std::string text_;  // received and not taken
};

}  // namespace mose::test
