// SPDX-License-Identifier: MIT
#include "client/resp.h"

#include <charconv>

namespace mose::client {
namespace {

constexpr size_t kLineBytesMax = 4096;

void append_number(std::string& out, size_t value) {
  char digits[24];
  auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}

bool parse_integer(std::string_view text, int64_t& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

void append_request(std::string& out, std::initializer_list<std::string_view> words) {
  out += '*';
  append_number(out, words.size());
  out += "\r\n";
  for (std::string_view word : words) {
    out += '$';
    append_number(out, word.size());
    out += "\r\n";
    out += word;
    out += "\r\n";
  }
}

void ReplyReader::append(std::string_view bytes) {
  // What was consumed is cut off here, not in next(), so that a Reply's text stays valid between the two.
  buffer_.erase(0, begin_);
  begin_ = 0;
  buffer_ += bytes;
}

Result<bool> ReplyReader::next(Reply& reply) {
  std::string_view rest = std::string_view(buffer_).substr(begin_);
  size_t line_end = rest.find("\r\n");
  if (line_end == std::string_view::npos) {
    if (rest.size() > kLineBytesMax) return fail("the server's answer has no line end");
    return false;
  }
  if (line_end == 0) return fail("the server's answer is an empty line");
  std::string_view line = rest.substr(1, line_end - 1);
  size_t used = line_end + 2;
  switch (rest[0]) {
    case '+':
    case '-':
      reply = {rest[0] == '+' ? Reply::Kind::status : Reply::Kind::error, line, 0};
      break;
    case ':':
      reply = {Reply::Kind::integer, {}, 0};
      if (!parse_integer(line, reply.integer)) return fail("the server's integer answer is not a number");
      break;
    case '$': {
      int64_t size = 0;
      if (!parse_integer(line, size) || size < -1 || size > static_cast<int64_t>(kReplyBytesMax)) {
        return fail("the server's answer has an impossible length");
      }
      if (size < 0) {
        reply = {Reply::Kind::null, {}, 0};
        break;
      }
      size_t bytes = static_cast<size_t>(size);
      if (rest.size() < used + bytes + 2) return false;
      if (rest.substr(used + bytes, 2) != "\r\n") return fail("the server's answer is longer than it says");
      reply = {Reply::Kind::bulk, rest.substr(used, bytes), 0};
      used += bytes + 2;
      break;
    }
    default:
      return fail("the server's answer begins with an unknown type");
  }
  begin_ += used;
  return true;
}

}  // namespace mose::client
