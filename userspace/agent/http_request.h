// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

// As much of HTTP/1.1 as a scraper needs: one request without a body, and the answer to it. Who asks may be hostile.
namespace mose::agent {

inline constexpr size_t kHttpLineMax = 1024;     // of the request line; ours are 30 bytes
inline constexpr size_t kHttpRequestMax = 8192;  // with all headers; browsers and scrapers send less than 2 KiB

enum class HttpStatus : int {
  ok = 200,
  bad_request = 400,
  not_found = 404,
  method_not_allowed = 405,
  uri_too_long = 414,
  headers_too_large = 431,
  unavailable = 503,
  version_not_supported = 505,
};

struct HttpRequest {
  bool head = false;  // HEAD; else GET
  std::string path;   // without what follows a '?'
};

// Of everything that has come on a connection. Nothing: more is needed, and at most kHttpRequestMax bytes in all. An error
// is the answer to give.
[[nodiscard]] std::expected<std::optional<HttpRequest>, HttpStatus> parse_http_request(std::string_view bytes);

struct HttpAnswer {
  HttpStatus status = HttpStatus::ok;
  std::string_view type = "text/plain; charset=utf-8";
};
// Status line and headers of an answer after which the connection is closed, up to the body of `body_bytes`.
[[nodiscard]] std::string http_head(const HttpAnswer& answer, size_t body_bytes);
[[nodiscard]] std::string_view http_reason(HttpStatus status);

}  // namespace mose::agent
