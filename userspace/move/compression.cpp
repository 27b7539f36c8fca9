// SPDX-License-Identifier: MIT
#include "move/compression.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>

namespace mose::move {
namespace {

// The fastest levels that are worth it: a higher one of zstd is slower than the links where it would pay.
constexpr int kZstdLevel = 1;
constexpr int kLz4Acceleration = 1;

char* chars(std::byte* bytes) {
  return reinterpret_cast<char*>(bytes);
}
const char* chars(const std::byte* bytes) {
  return reinterpret_cast<const char*>(bytes);
}

}  // namespace

struct Compressor::Zstd {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  Zstd() = default;
  ~Zstd() { ZSTD_freeCCtx(context); }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;
};

struct Decompressor::Zstd {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  Zstd() = default;
  ~Zstd() { ZSTD_freeDCtx(context); }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;
};

Compressor::Compressor() = default;
Compressor::~Compressor() = default;

std::span<const std::byte> Compressor::compress(wire::Codec codec, std::span<const std::byte> contents,
                                                size_t bytes_max) {
  out_.resize(std::max(out_.size(), bytes_max));
  if (codec == wire::Codec::lz4) {
    const int done = LZ4_compress_fast(chars(contents.data()), chars(out_.data()), static_cast<int>(contents.size()),
                                       static_cast<int>(bytes_max), kLz4Acceleration);
    return std::span(out_).first(done > 0 ? static_cast<size_t>(done) : 0);
  }
  if (codec != wire::Codec::zstd) return {};
  if (!zstd_) zstd_ = std::make_unique<Zstd>();
  if (zstd_->context == nullptr) return {};
  const size_t done =
      ZSTD_compressCCtx(zstd_->context, out_.data(), bytes_max, contents.data(), contents.size(), kZstdLevel);
  return std::span(out_).first(ZSTD_isError(done) ? 0 : done);
}

Decompressor::Decompressor() = default;
Decompressor::~Decompressor() = default;

Status Decompressor::decompress(wire::Codec codec, std::span<const std::byte> compressed,
                                std::span<std::byte> contents) {
  bool whole = false;
  if (codec == wire::Codec::lz4) {
    const int done = LZ4_decompress_safe(chars(compressed.data()), chars(contents.data()),
                                         static_cast<int>(compressed.size()), static_cast<int>(contents.size()));
    whole = done >= 0 && static_cast<size_t>(done) == contents.size();
  } else if (codec == wire::Codec::zstd) {
    if (!zstd_) zstd_ = std::make_unique<Zstd>();
    if (zstd_->context == nullptr) return fail("no memory for zstd");
    // All at once: the window is the output, whatever size the frame claims for it.
    const size_t done =
        ZSTD_decompressDCtx(zstd_->context, contents.data(), contents.size(), compressed.data(), compressed.size());
    whole = !ZSTD_isError(done) && done == contents.size();
  }
  if (!whole) return fail("PAGES whose compressed contents are damaged");
  return {};
}

}  // namespace mose::move
