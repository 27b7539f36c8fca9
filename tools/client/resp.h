// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

// As much of the Redis protocol (RESP 2) as the load client speaks: requests as arrays of strings, answers of one
// element each.
namespace mose::client {

// Appends one request to `out`.
void append_request(std::string& out, std::initializer_list<std::string_view> words);

struct Reply {
  enum class Kind { status, error, integer, bulk, null };
  Kind kind = Kind::null;
  std::string_view text;  // status, error, bulk; valid until the next append()
  int64_t integer = 0;
};

// Longest answer that is accepted: our own values are far shorter, so that more means a broken stream.
inline constexpr size_t kReplyBytesMax = 1u << 20;

// Cuts a byte stream into answers. Life: one per connection; append() what was received, then next() until it says that
// the rest is incomplete.
class ReplyReader {
 public:
  void append(std::string_view bytes);
  // True and `reply` filled, false when more bytes are needed; an error when the stream is not RESP (final).
  [[nodiscard]] Result<bool> next(Reply& reply);
  [[nodiscard]] size_t pending_bytes() const { return buffer_.size() - begin_; }

 private:
  std::string buffer_;
  size_t begin_ = 0;
};

}  // namespace mose::client
