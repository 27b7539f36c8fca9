// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

// The framing of mose.control.v1 (include/mose/control/control.proto): u32 little-endian length, then the message.
namespace mose::agent {

inline constexpr uint32_t kControlFrameMax = 8u << 20;  // a report of a long migration; checked before allocation

// Collects bytes from a stream and gives whole frames back. A length beyond the bound is an error that stays.
class FrameReader {
 public:
  explicit FrameReader(uint32_t length_max = kControlFrameMax) : length_max_(length_max) {}
  void append(std::string_view bytes) { buffer_.append(bytes); }
  // A payload, nothing (more bytes are needed), or the error.
  [[nodiscard]] Result<std::optional<std::string>> next();
  [[nodiscard]] size_t buffered() const { return buffer_.size() - begin_; }

 private:
  uint32_t length_max_;
  size_t begin_ = 0;
  std::string buffer_;
};

// The frame of a payload that is at most kControlFrameMax long.
[[nodiscard]] std::string make_frame(std::string_view payload);

}  // namespace mose::agent
