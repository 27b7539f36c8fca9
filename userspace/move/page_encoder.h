// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "move/bandwidth.h"
#include "move/codec_choice.h"
#include "move/compression.h"

namespace mose::move {

// What the bulk stream of one migration has carried, for its report.
struct StreamStats {
  uint64_t contents = 0;  // bytes of pages
  uint64_t wire = 0;      // bytes they travelled as, headers included
  uint64_t frames_raw = 0, frames_lz4 = 0, frames_zstd = 0;
};

// How the contents of each frame of the bulk stream travel: raw, or compressed while the link is what is waited for.
//
// Life: one per migration, across its rounds and the push, because what it has learned of the link stays true.
// set_peer() once the other end has said HELLO (before, and with an old one, everything is raw and nothing is
// compressed); begin() when a stretch of frames begins; per frame encode(), then sent(). One thread at a time; stats()
// from any.
//
// Memory: three times one frame (2 MiB), and zstd's own 2 to 4 MiB.
class PageEncoder {
 public:
  // `bandwidth` (may be null, borrowed) tells from the start how fast the link may be.
  explicit PageEncoder(const Bandwidth* bandwidth = nullptr) : bandwidth_(bandwidth) {}

  void set_peer(uint64_t features) { features_ = features; }
  [[nodiscard]] bool by_sums() const { return (features_ & wire::kFeaturePageSums) != 0; }

  void begin();
  struct Encoded {
    wire::Codec codec = wire::Codec::raw;
    std::span<const std::byte> bytes;  // compressed, valid until the next encode(); empty when raw
  };
  [[nodiscard]] Encoded encode(std::span<const std::span<const std::byte>> pieces);
  // The frame is out: as `wire` bytes, after `waited` of waiting (socket, cap) since the one before.
  void sent(wire::Codec codec, uint64_t contents, uint64_t wire, Nanoseconds waited);

  [[nodiscard]] StreamStats stats() const;

 private:
  [[nodiscard]] std::span<const std::byte> gather(std::span<const std::span<const std::byte>> pieces);
  [[nodiscard]] CodecCost usable(wire::Codec codec, double ratio);
  [[nodiscard]] bool may_pay();
  void sample(std::span<const std::byte> contents);
  [[nodiscard]] std::span<const std::byte> measure(wire::Codec codec, std::span<const std::byte> contents);
  [[nodiscard]] double wire_ns_per_byte() const;
  [[nodiscard]] CodecCost& cost_of(wire::Codec codec) { return codec == wire::Codec::lz4 ? lz4_ : zstd_; }
  [[nodiscard]] bool speaks(wire::Codec codec) const;

  const Bandwidth* bandwidth_;
  std::atomic<uint64_t> features_{0};
  Compressor compressor_;
  LinkMeter meter_;
  // Until something was compressed: less than any machine needs, so that it is tried.
  CodecCost lz4_{0.5, 0.5}, zstd_{0.5, 0.5};
  std::vector<std::byte> gathered_, sample_;
  Timestamp last_{};
  Nanoseconds compressing_{0};  // since the frame before
  std::atomic<uint64_t> contents_{0}, wire_{0}, raw_frames_{0}, lz4_frames_{0}, zstd_frames_{0};
};

}  // namespace mose::move
