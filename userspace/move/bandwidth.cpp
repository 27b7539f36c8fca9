// SPDX-License-Identifier: MIT
#include "move/bandwidth.h"

#include <algorithm>
#include <thread>

namespace mose::move {
namespace {

constexpr Nanoseconds kSleepMax = std::chrono::milliseconds(20);

size_t burst_of(double bytes_per_second) {
  double bytes = bytes_per_second * std::chrono::duration<double>(Bandwidth::kBurst).count();
  return static_cast<size_t>(std::clamp<double>(bytes, Bandwidth::kBurstBytesMin, Bandwidth::kBurstBytesMax));
}

}  // namespace

Bandwidth::Bandwidth(uint64_t bits_per_second_max)
    : bytes_per_second_(static_cast<double>(bits_per_second_max) / 8),
      burst_bytes_(burst_of(bytes_per_second_)),
      free_at_(now()) {}

void Bandwidth::add(size_t bytes, Timestamp at) {
  free_at_ = std::max(free_at_, at - kCredit) +
             Nanoseconds(static_cast<int64_t>(static_cast<double>(bytes) * 1e9 / bytes_per_second_));
}

size_t Bandwidth::take(size_t wanted, const std::stop_token& stop) {
  if (!limited()) return wanted;
  const Timestamp start = now();
  for (Timestamp at = start; !stop.stop_requested(); at = now()) {
    Nanoseconds left;
    {
      std::lock_guard lock(mutex_);
      left = free_at_ - at;
      if (left <= Nanoseconds(0)) {
        const size_t taken = std::min(wanted, burst_bytes_);
        add(taken, at);
        waited_ += at - start;
        return taken;
      }
    }
    std::this_thread::sleep_for(std::min(left, kSleepMax));
  }
  return 0;
}

void Bandwidth::book(size_t bytes) {
  if (!limited()) return;
  std::lock_guard lock(mutex_);
  const Timestamp at = now();
  // Never earlier than it was: bulk that was let through has had its place.
  const Timestamp latest = std::max(free_at_, at + kDebtMax);
  add(bytes, at);
  free_at_ = std::min(free_at_, latest);
}

Nanoseconds Bandwidth::waited() const {
  std::lock_guard lock(mutex_);
  return waited_;
}

}  // namespace mose::move
