// SPDX-License-Identifier: MIT
#include "agent/http_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace mose::agent {
namespace {

constexpr std::string_view kLineEnd = "\r\n";

bool is_token(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || kMarks.find(c) != std::string_view::npos;
  });
}

bool is_visible(char c) { return c > ' ' && c < 0x7f; }

// What no text of HTTP holds: nothing that follows can make a request of it.
bool is_binary(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < ' ' && c != '\r' && c != '\n' && c != '\t') || byte == 0x7f;
}

bool same_word(std::string_view a, std::string_view b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

std::expected<HttpRequest, HttpStatus> parse_line(std::string_view line, bool& needs_host) {
  const size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return std::unexpected(HttpStatus::bad_request);
  const std::string_view method = line.substr(0, first), target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(method) || target.empty() || target[0] != '/' || !std::ranges::all_of(target, is_visible)) {
    return std::unexpected(HttpStatus::bad_request);
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return std::unexpected(version.starts_with("HTTP/") ? HttpStatus::version_not_supported : HttpStatus::bad_request);
  }
  if (method != "GET" && method != "HEAD") return std::unexpected(HttpStatus::method_not_allowed);
  needs_host = version == "HTTP/1.1";
  return HttpRequest{method == "HEAD", std::string(target.substr(0, target.find('?')))};
}

}  // namespace

std::expected<std::optional<HttpRequest>, HttpStatus> parse_http_request(std::string_view bytes) {
  if (std::ranges::any_of(bytes, is_binary)) return std::unexpected(HttpStatus::bad_request);
  const size_t line_end = bytes.find(kLineEnd);
  if (std::min(line_end, bytes.size()) > kHttpLineMax) return std::unexpected(HttpStatus::uri_too_long);
  const size_t end = bytes.find("\r\n\r\n");
  if (end == std::string_view::npos) {
    if (bytes.size() >= kHttpRequestMax) return std::unexpected(HttpStatus::headers_too_large);
    return std::nullopt;
  }
  bool needs_host = false;
  auto request = parse_line(bytes.substr(0, line_end), needs_host);
  if (!request) return std::unexpected(request.error());
  int hosts = 0;
  for (size_t at = line_end + kLineEnd.size(); at < end;) {
    const size_t next = bytes.find(kLineEnd, at);
    const std::string_view header = bytes.substr(at, next - at);
    const size_t colon = header.find(':');
    if (colon == std::string_view::npos || !is_token(header.substr(0, colon))) return std::unexpected(HttpStatus::bad_request);
    if (header.find('\n') != std::string_view::npos || header.find('\r') != std::string_view::npos) return std::unexpected(HttpStatus::bad_request);
    hosts += same_word(header.substr(0, colon), "host") ? 1 : 0;
    at = next + kLineEnd.size();
  }
  if (hosts > 1 || (needs_host && hosts == 0)) return std::unexpected(HttpStatus::bad_request);
  return std::move(*request);
}

std::string_view http_reason(HttpStatus status) {
  switch (status) {
    case HttpStatus::ok:
      return "OK";
    case HttpStatus::bad_request:
      return "Bad Request";
    case HttpStatus::not_found:
      return "Not Found";
    case HttpStatus::method_not_allowed:
      return "Method Not Allowed";
    case HttpStatus::uri_too_long:
      return "URI Too Long";
    case HttpStatus::headers_too_large:
      return "Request Header Fields Too Large";
    case HttpStatus::unavailable:
      return "Service Unavailable";
    case HttpStatus::version_not_supported:
      return "HTTP Version Not Supported";
  }
  return "?";
}

std::string http_head(const HttpAnswer& answer, size_t body_bytes) {
  const std::time_t now_s = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now_s, &utc);
  char date[64] = "";
  std::strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  std::string head = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n",
                                 static_cast<int>(answer.status), http_reason(answer.status), date, answer.type, body_bytes);
  if (answer.status == HttpStatus::method_not_allowed) head += "Allow: GET, HEAD\r\n";
  return head + "\r\n";
}

}  // namespace mose::agent
