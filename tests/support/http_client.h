// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

// As much of a client of HTTP as tests need. `where`: an endpoint such as 127.0.0.1:9477, or the path of a unix socket.
namespace mose::test {

[[nodiscard]] Result<Fd> http_connect(const std::string& where);
// Everything that comes until the other end closes, or for so long.
[[nodiscard]] std::string read_to_end(int socket, Nanoseconds bound = std::chrono::seconds(10));

struct HttpReply {
  int status = 0;
  std::string head, body;
};
// The answer to these bytes; an error where what came is none of HTTP, or its length is not as said.
[[nodiscard]] Result<HttpReply> http_exchange(const std::string& where, std::string_view bytes);
[[nodiscard]] Result<HttpReply> http_get(const std::string& where, const std::string& path);

}  // namespace mose::test
