// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <stop_token>

#include "base/clock.h"

namespace mose::move {

// How fast one migration may send pages (`--max-bandwidth`): one budget for all of its streams. Over any second at most
// kCredit and one burst more than the rate leave, less than 3 %; who sends without a pause leaves no less than the rate
// as long as the machine holds no thread up for longer than kCredit.
//
// What waits: the contents of pre-copy rounds and of the push after the resume. What never waits but is booked, so that
// bulk waits in its place: answers to requests (somebody stands still until they come) and PAGE_MAP in the freeze.
// Their debt is bounded by kDebtMax, so that a flood of them slows bulk down and does not stop it. What neither waits
// nor counts: the control connection (images, verdicts). Bytes are those of the stream; TCP's and IP's headers are some
// 4 % on a wire of 1500 bytes.
//
// Thread-safe.
class Bandwidth {
 public:
  static constexpr Nanoseconds kCredit = std::chrono::milliseconds(20);
  static constexpr Nanoseconds kDebtMax = std::chrono::milliseconds(100);
  static constexpr Nanoseconds kBurst = std::chrono::milliseconds(2);
  static constexpr size_t kBurstBytesMin = 1448;  // one segment
  static constexpr size_t kBurstBytesMax = 256u << 10;

  explicit Bandwidth(uint64_t bits_per_second_max = 0);  // 0: unlimited
  Bandwidth(const Bandwidth&) = delete;
  Bandwidth& operator=(const Bandwidth&) = delete;

  [[nodiscard]] bool limited() const { return bytes_per_second_ != 0; }
  [[nodiscard]] double bytes_per_second() const { return bytes_per_second_; }
  // Waits until something may leave; how many of the `wanted` bytes, at least 1, which are booked. 0: stopped.
  [[nodiscard]] size_t take(size_t wanted, const std::stop_token& stop);
  // Bytes that leave now, whatever was booked before.
  void book(size_t bytes);
  // How long callers of take() have waited, together.
  [[nodiscard]] Nanoseconds waited() const;

 private:
  void add(size_t bytes, Timestamp at);  // under mutex_

  const double bytes_per_second_;
  const size_t burst_bytes_;
  mutable std::mutex mutex_;
  Timestamp free_at_;  // when everything booked has had its time
  Nanoseconds waited_{0};
};

}  // namespace mose::move
