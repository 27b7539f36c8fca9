// SPDX-License-Identifier: MIT
#include "agent/control_frames.h"

#include <fmt/format.h>

#include "base/check.h"

namespace mose::agent {
namespace {
constexpr size_t kLengthBytes = 4;
constexpr size_t kCompactAt = 64u << 10;  // consumed bytes in front before the rest is moved down
}  // namespace

Result<std::optional<std::string>> FrameReader::next() {
  if (buffered() < kLengthBytes) return std::nullopt;
  uint32_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint32_t>(static_cast<unsigned char>(buffer_[begin_ + i])) << (8 * i);
  }
  if (length > length_max_) return fail(fmt::format("a frame of {} bytes is longer than {}", length, length_max_));
  if (buffered() < kLengthBytes + length) return std::nullopt;
  std::string payload = buffer_.substr(begin_ + kLengthBytes, length);
  begin_ += kLengthBytes + length;
  if (begin_ == buffer_.size() || begin_ > kCompactAt) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  return payload;
}

std::string make_frame(std::string_view payload) {
  MOSE_CHECK(payload.size() <= kControlFrameMax, "a control frame within its bound");
  std::string frame;
  frame.reserve(kLengthBytes + payload.size());
  for (size_t i = 0; i < kLengthBytes; ++i) frame += static_cast<char>((payload.size() >> (8 * i)) & 0xff);
  frame += payload;
  return frame;
}

}  // namespace mose::agent
