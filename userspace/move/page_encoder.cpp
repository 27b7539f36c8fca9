// SPDX-License-Identifier: MIT
#include "move/page_encoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/page_set.h"

namespace mose::move {
namespace {

// Of each frame: spread over it, and enough that the start of a codec does not count.
constexpr size_t kSamplePages = 8;
constexpr size_t kSampledFrom = 4 * kSamplePages;  // a smaller frame goes by what the ones before showed
constexpr double kSizeMax = 0.95;                  // of the contents; more is not worth unpacking
constexpr double kNewWeight = 0.25;
// Of what a codec is believed to cost, per frame that was not sampled because of it: a wrong measurement is forgotten.
constexpr double kFading = 0.998;

}  // namespace

bool PageEncoder::speaks(wire::Codec codec) const {
  const uint64_t bit = codec == wire::Codec::lz4 ? wire::kFeatureLz4 : wire::kFeatureZstd;
  return by_sums() && (features_ & bit) != 0;
}

void PageEncoder::begin() {
  last_ = now();
  compressing_ = Nanoseconds(0);
}

double PageEncoder::wire_ns_per_byte() const {
  const double capped = bandwidth_ != nullptr && bandwidth_->limited() ? 1e9 / bandwidth_->bytes_per_second() : 0;
  return std::max(capped, meter_.wire_ns_per_byte());
}

std::span<const std::byte> PageEncoder::gather(std::span<const std::span<const std::byte>> pieces) {
  size_t bytes = 0;
  bool neighbours = true;
  for (const auto& piece : pieces) {
    neighbours = neighbours && piece.data() == pieces.front().data() + bytes;
    bytes += piece.size();
  }
  if (neighbours) return {pieces.front().data(), bytes};
  gathered_.resize(std::max(gathered_.size(), bytes));
  size_t at = 0;
  for (const auto& piece : pieces) {
    memcpy(gathered_.data() + at, piece.data(), piece.size());
    at += piece.size();
  }
  return std::span(gathered_).first(bytes);
}

// Compresses and learns what it cost. Empty: not worth it.
std::span<const std::byte> PageEncoder::measure(wire::Codec codec, std::span<const std::byte> contents) {
  const auto bytes_max = static_cast<size_t>(static_cast<double>(contents.size()) * kSizeMax);
  const Timestamp start = now();
  const std::span<const std::byte> out = compressor_.compress(codec, contents, bytes_max);
  const Nanoseconds took = now() - start;
  compressing_ += took;
  const auto bytes = static_cast<double>(contents.size());
  CodecCost& cost = cost_of(codec);
  cost.ns_per_byte += kNewWeight * (static_cast<double>(took.count()) / bytes - cost.ns_per_byte);
  cost.ratio = out.empty() ? 1 : static_cast<double>(out.size()) / bytes;
  return out;
}

void PageEncoder::sample(std::span<const std::byte> contents) {
  const size_t pages = contents.size() / kPageSize;
  if (pages < kSampledFrom) return;
  sample_.resize(kSamplePages * kPageSize);
  for (size_t i = 0; i < kSamplePages; ++i) {
    memcpy(sample_.data() + i * kPageSize, contents.data() + (i * pages / kSamplePages) * kPageSize, kPageSize);
  }
  for (wire::Codec codec : {wire::Codec::lz4, wire::Codec::zstd}) {
    if (speaks(codec)) static_cast<void>(measure(codec, sample_));
  }
}

CodecCost PageEncoder::usable(wire::Codec codec, double ratio) {
  return {cost_of(codec).ns_per_byte, speaks(codec) ? ratio : 1e9};
}

// Would it pay if pages became nothing? On a fast link this is all that is done.
bool PageEncoder::may_pay() {
  const wire::Codec best = cheapest_codec(wire_ns_per_byte(), meter_.raw_ns_per_byte(), usable(wire::Codec::lz4, 0), usable(wire::Codec::zstd, 0));
  if (best != wire::Codec::raw) return true;
  lz4_.ns_per_byte *= kFading;
  zstd_.ns_per_byte *= kFading;
  return false;
}

PageEncoder::Encoded PageEncoder::encode(std::span<const std::span<const std::byte>> pieces) {
  if (!speaks(wire::Codec::lz4) && !speaks(wire::Codec::zstd)) return {};
  if (wire_ns_per_byte() == 0 || pieces.empty() || !may_pay()) return {};
  const std::span<const std::byte> contents = gather(pieces);
  sample(contents);
  const wire::Codec codec = cheapest_codec(wire_ns_per_byte(), meter_.raw_ns_per_byte(), usable(wire::Codec::lz4, lz4_.ratio),
                                           usable(wire::Codec::zstd, zstd_.ratio));
  if (codec == wire::Codec::raw) return {};
  const std::span<const std::byte> bytes = measure(codec, contents);
  if (bytes.empty()) return {};
  return {codec, bytes};
}

void PageEncoder::sent(wire::Codec codec, uint64_t contents, uint64_t wire, Nanoseconds waited) {
  const Timestamp at = now();
  meter_.sent(at - last_, waited, std::exchange(compressing_, Nanoseconds(0)), contents, wire);
  last_ = at;
  contents_ += contents;
  wire_ += wire;
  ++(codec == wire::Codec::raw ? raw_frames_ : codec == wire::Codec::lz4 ? lz4_frames_ : zstd_frames_);
}

StreamStats PageEncoder::stats() const {
  return {contents_, wire_, raw_frames_, lz4_frames_, zstd_frames_};
}

}  // namespace mose::move
