// SPDX-License-Identifier: MIT
// How contents of pages are compressed, and when.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "model/page_set.h"
#include "move/codec_choice.h"
#include "move/compression.h"
#include "move/page_encoder.h"

namespace mose::move {
namespace {

using Bytes = std::vector<std::byte>;
using wire::Codec;
constexpr CodecCost kLz4{2, 0.5}, kZstd{4, 0.3};

Bytes text(size_t pages) {
  Bytes bytes(pages * kPageSize);
  std::mt19937_64 random(1);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random() % 64;
    memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

Bytes noise(size_t pages) {
  Bytes bytes(pages * kPageSize);
  std::mt19937_64 random(2);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

class EachCodec : public testing::TestWithParam<Codec> {
 protected:
  Compressor compressor_;
  Decompressor decompressor_;
};
INSTANTIATE_TEST_SUITE_P(Compression, EachCodec, testing::Values(Codec::lz4, Codec::zstd),
                         [](const auto& param) { return param.param == Codec::lz4 ? "Lz4" : "Zstd"; });

TEST_P(EachCodec, GivesBackWhatWentIn) {
  for (size_t pages : {1u, 7u, 512u}) {
    const Bytes from = text(pages);
    const auto small = compressor_.compress(GetParam(), from, from.size() - 1);
    ASSERT_FALSE(small.empty());
    Bytes to(from.size());
    ASSERT_TRUE(decompressor_.decompress(GetParam(), small, to));
    EXPECT_EQ(to, from);
  }
}

TEST_P(EachCodec, WhatDoesNotBecomeSmallerIsNone) {
  const Bytes from = noise(16);
  EXPECT_TRUE(compressor_.compress(GetParam(), from, from.size() * 95 / 100).empty());
}

TEST_P(EachCodec, TooMuchTooLittleAndDamagedIsRefused) {
  const Bytes from = text(4);
  const auto small = compressor_.compress(GetParam(), from, from.size());
  Bytes compressed(small.begin(), small.end());
  Bytes one_more(from.size() + 1), one_less(from.size() - 1), same(from.size());
  EXPECT_FALSE(decompressor_.decompress(GetParam(), compressed, one_more));
  EXPECT_FALSE(decompressor_.decompress(GetParam(), compressed, one_less));
  EXPECT_FALSE(decompressor_.decompress(GetParam(), std::span(compressed).first(compressed.size() - 1), same));
  EXPECT_FALSE(decompressor_.decompress(GetParam(), std::span(compressed).first(1), same));
  EXPECT_TRUE(decompressor_.decompress(GetParam(), compressed, same));
}

TEST(CodecChoice, ASlowLinkIsWorthTheMostWork) {
  EXPECT_EQ(cheapest_codec(20, 0.5, kLz4, kZstd), Codec::zstd);
}
TEST(CodecChoice, AFasterOneIsWorthLess) {
  EXPECT_EQ(cheapest_codec(4.5, 0.5, kLz4, kZstd), Codec::lz4);
}
TEST(CodecChoice, AFastOneIsWorthNone) {
  EXPECT_EQ(cheapest_codec(1, 0.5, kLz4, kZstd), Codec::raw);
}
TEST(CodecChoice, AnUnknownLinkIsWorthNone) {
  EXPECT_EQ(cheapest_codec(0, 0, kLz4, kZstd), Codec::raw);
}
TEST(CodecChoice, NoiseStaysAsItIs) {
  EXPECT_EQ(cheapest_codec(100, 0.5, {2, 1}, {4, 0.98}), Codec::raw);
}
TEST(CodecChoice, ASmallGainIsNotWorthTheProcessor) {
  EXPECT_EQ(cheapest_codec(10, 0.5, {2, 0.92}, {4, 0.93}), Codec::raw);
}

constexpr auto kFrame = LinkMeter::kWindow;
constexpr uint64_t kFrameBytes = 1u << 20;

TEST(LinkMeterTest, ALinkThatIsWaitedForIsKnownByWhatItTakes) {
  LinkMeter meter;
  for (int i = 0; i < 8; ++i) meter.sent(kFrame, kFrame * 9 / 10, {}, kFrameBytes, kFrameBytes);
  EXPECT_NEAR(meter.wire_ns_per_byte(), static_cast<double>(kFrame.count()) / kFrameBytes, 0.1);
  EXPECT_NEAR(meter.raw_ns_per_byte(), static_cast<double>(kFrame.count()) / 10 / kFrameBytes, 0.1);
}

TEST(LinkMeterTest, ALinkThatIsNotWaitedForIsUnknown) {
  LinkMeter meter;
  for (int i = 0; i < 8; ++i) meter.sent(kFrame, kFrame / 100, {}, kFrameBytes, kFrameBytes);
  EXPECT_EQ(meter.wire_ns_per_byte(), 0);
}

TEST(LinkMeterTest, ASlowLinkThatNobodyWaitsForAnyMoreIsForgotten) {
  LinkMeter meter;
  meter.sent(kFrame, kFrame, {}, kFrameBytes, kFrameBytes);
  const double before = meter.wire_ns_per_byte();
  for (int i = 0; i < 150; ++i) meter.sent(kFrame, {}, kFrame / 2, kFrameBytes, kFrameBytes / 4);
  EXPECT_LT(meter.wire_ns_per_byte(), before / 10);
}

// Encodes `bytes` in frames of 1 MiB behind a cap of `rate`.
StreamStats encoded(const Bytes& bytes, uint64_t rate, uint64_t features) {
  Bandwidth bandwidth(rate);
  PageEncoder encoder(&bandwidth);
  encoder.set_peer(features);
  encoder.begin();
  for (size_t at = 0; at < bytes.size(); at += kFrameBytes) {
    const auto piece = std::span(bytes).subspan(at, kFrameBytes);
    const std::span<const std::byte> pieces[] = {piece.first(kPageSize), piece.subspan(kPageSize)};
    const auto out = encoder.encode(pieces);
    encoder.sent(out.codec, kFrameBytes, out.bytes.empty() ? kFrameBytes : out.bytes.size(), {});
  }
  return encoder.stats();
}

TEST(PageEncoderTest, CompressesBehindASlowLinkOnly) {
  const Bytes bytes = text(8 * 256);
  EXPECT_EQ(encoded(bytes, 10'000'000, wire::kFeatures).frames_raw, 0u);
  EXPECT_EQ(encoded(bytes, 0, wire::kFeatures).frames_raw, 8u);
  EXPECT_EQ(encoded(bytes, 500'000'000'000, wire::kFeatures).frames_raw, 8u);
}

TEST(PageEncoderTest, WhatCannotBecomeSmallerTravelsAsItIs) {
  EXPECT_EQ(encoded(noise(8 * 256), 10'000'000, wire::kFeatures).frames_raw, 8u);
}

TEST(PageEncoderTest, UsesOnlyWhatThePeerReads) {
  const Bytes bytes = text(8 * 256);
  EXPECT_EQ(encoded(bytes, 10'000'000, 0).frames_raw, 8u);
  EXPECT_EQ(encoded(bytes, 10'000'000, wire::kFeaturePageSums).frames_raw, 8u);
  EXPECT_EQ(encoded(bytes, 10'000'000, wire::kFeatureLz4).frames_raw, 8u) << "not without sums";
  EXPECT_EQ(encoded(bytes, 10'000'000, wire::kFeaturePageSums | wire::kFeatureLz4).frames_lz4, 8u);
  EXPECT_EQ(encoded(bytes, 10'000'000, wire::kFeaturePageSums | wire::kFeatureZstd).frames_zstd, 8u);
}

}  // namespace
}  // namespace mose::move
