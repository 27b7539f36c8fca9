// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace mose::restore {

// Pages that are on their way, and how fast they come: by the faster of all the time and the last stretch. Early ones say little of the
// rest, for they come while the source still dumps and this end rebuilds. A stretch in which none came counts to the one before: that it
// is somebody's turn on the processor is as likely as that nobody sends any more.
//
// A plain value, for one thread. Times ascend.
class Arrivals {
 public:
  static constexpr Nanoseconds kStretch = std::chrono::milliseconds(5);

  void expect(uint64_t pages, Timestamp at) {
    *this = {};
    pages_ = left_ = stretch_left_ = pages;
    since_ = stretch_begun_ = at;
  }
  void forget() { *this = {}; }
  [[nodiscard]] bool pending() const { return pages_ != 0; }

  // Of those that were expected so many are left.
  void seen(uint64_t left, Timestamp at) {
    left = std::min(left, left_);
    if (come() == 0 && left < left_) {
      since_ = stretch_begun_ = at;
      stretch_left_ = left;
    }
    left_ = left;
    if (at - stretch_begun_ < kStretch) return;
    const uint64_t came = stretch_left_ - left_;
    stretch_ = at - stretch_begun_ + (came == 0 ? stretch_ : Nanoseconds(0));
    if (came != 0) stretch_come_ = came;
    stretch_begun_ = at;
    stretch_left_ = left_;
  }
  [[nodiscard]] uint64_t come() const { return pages_ - left_; }
  // Since the first of them came, or, while none has, since they are expected.
  [[nodiscard]] Nanoseconds waited(Timestamp at) const { return at - since_; }
  // Until the rest is there. The longest there is while none has come.
  [[nodiscard]] Nanoseconds rest(Timestamp at) const {
    if (come() == 0) return Nanoseconds::max();
    const auto left = static_cast<int64_t>(left_);
    const Nanoseconds by_all = waited(at) / static_cast<int64_t>(come()) * left;
    return stretch_come_ == 0 ? by_all : std::min(by_all, stretch_ / static_cast<int64_t>(stretch_come_) * left);
  }

 private:
  uint64_t pages_ = 0, left_ = 0;
  Timestamp since_{};
  Timestamp stretch_begun_{};  // the one that goes on
  uint64_t stretch_left_ = 0;  // at its begin
  Nanoseconds stretch_{0};     // the last whole one, and those without any behind it
  uint64_t stretch_come_ = 0;
};

}  // namespace mose::restore
