// SPDX-License-Identifier: MIT
#include "move/codec_choice.h"

#include <algorithm>
#include <utility>

namespace mose::move {
namespace {

// Below it the waiting is that of a receiver or a scheduler that hiccups.
constexpr double kWaitedLeast = 0.1;
// Of an estimate that nothing confirms any more, per window: one of 1 Gbit/s falls in 2 s to where raw frames go out
// again and measure anew. They cost one window in a hundred.
constexpr double kFading = 0.98;

}  // namespace

wire::Codec cheapest_codec(double wire_ns_per_byte, double raw_ns_per_byte, const CodecCost& lz4,
                           const CodecCost& zstd) {
  auto time_of = [&](const CodecCost& cost) {
    return std::max(raw_ns_per_byte + cost.ns_per_byte, wire_ns_per_byte * cost.ratio);
  };
  const double raw = std::max(raw_ns_per_byte, wire_ns_per_byte);
  const double best = std::min(time_of(lz4), time_of(zstd));
  if (best > raw * (1 - kGainLeast)) return wire::Codec::raw;
  return time_of(lz4) <= best ? wire::Codec::lz4 : wire::Codec::zstd;
}

void LinkMeter::sent(Nanoseconds elapsed, Nanoseconds waited, Nanoseconds compressing, uint64_t contents,
                     uint64_t wire) {
  window_.elapsed += elapsed;
  window_.waited += waited;
  window_.compressing += compressing;
  window_.contents += contents;
  window_.wire += wire;
  if (window_.elapsed < kWindow || window_.contents == 0 || window_.wire == 0) return;
  const Window done = std::exchange(window_, {});
  const auto elapsed_ns = static_cast<double>(done.elapsed.count());
  const auto work_ns = static_cast<double>((done.elapsed - done.waited - done.compressing).count());
  const double raw = std::max(work_ns, 0.0) / static_cast<double>(done.contents);
  raw_ns_per_byte_ = raw_ns_per_byte_ == 0 ? raw : raw_ns_per_byte_ * 0.75 + raw * 0.25;
  if (static_cast<double>(done.waited.count()) >= kWaitedLeast * elapsed_ns) {
    const double wire_now = elapsed_ns / static_cast<double>(done.wire);
    wire_ns_per_byte_ = wire_ns_per_byte_ == 0 ? wire_now : wire_ns_per_byte_ * 0.5 + wire_now * 0.5;
  } else {
    wire_ns_per_byte_ *= kFading;
  }
}

}  // namespace mose::move
