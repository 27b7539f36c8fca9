// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "mose/wire/frame.h"

// When compressing pays: while the link takes pages more slowly than this machine could hand them on. Decided for each
// frame from what was measured before it and from a sample of its own pages.
namespace mose::move {

// What one codec costs and brings.
struct CodecCost {
  double ns_per_byte = 0;  // of contents
  double ratio = 1;        // compressed to contents
};

// Reading, hashing and sending of one frame go on while the kernel's buffer empties into the link, so a frame takes the
// longer of both. The codec whose frame is the shortest; raw when none is shorter by kGainLeast: the processor has the
// workload to serve too. `wire_ns_per_byte`: what a byte on the link takes; `raw_ns_per_byte`: work without
// compression.
inline constexpr double kGainLeast = 0.1;
[[nodiscard]] wire::Codec cheapest_codec(double wire_ns_per_byte, double raw_ns_per_byte, const CodecCost& lz4,
                                         const CodecCost& zstd);

// How fast the link is and how busy we are, learned from the frames that were sent.
class LinkMeter {
 public:
  static constexpr Nanoseconds kWindow = std::chrono::milliseconds(20);

  // One frame: from one call to the next `elapsed` passed, of which `waited` was spent waiting (socket full, bandwidth
  // cap), and `work` compressing; `contents` bytes of pages left as `wire` bytes.
  void sent(Nanoseconds elapsed, Nanoseconds waited, Nanoseconds compressing, uint64_t contents, uint64_t wire);

  // 0: the link was never what we waited for.
  [[nodiscard]] double wire_ns_per_byte() const { return wire_ns_per_byte_; }
  [[nodiscard]] double raw_ns_per_byte() const { return raw_ns_per_byte_; }

 private:
  struct Window {
    Nanoseconds elapsed{0}, waited{0}, compressing{0};
    uint64_t contents = 0, wire = 0;
  };
  Window window_;
  double wire_ns_per_byte_ = 0;
  double raw_ns_per_byte_ = 0;
};

}  // namespace mose::move
