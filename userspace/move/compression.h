// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "mose/wire/frame.h"

// Contents of PAGES frames, compressed (Codec::lz4 and Codec::zstd of include/mose/wire/frame.h), one frame's pages at
// a time and each frame by itself: it can be read whatever was lost before it.
namespace mose::move {

// Not thread-safe; one per stream. Memory: what one frame takes twice, and 2 to 4 MiB of zstd's once that was used.
class Compressor {
 public:
  Compressor();
  ~Compressor();

  // Valid until the next call. Empty: it would not have become smaller than `bytes_max`, or the codec is none.
  [[nodiscard]] std::span<const std::byte> compress(wire::Codec codec, std::span<const std::byte> contents,
                                                    size_t bytes_max);

 private:
  struct Zstd;
  std::unique_ptr<Zstd> zstd_;
  std::vector<std::byte> out_;
};

// The receiving end: takes no memory that the input asks for.
class Decompressor {
 public:
  Decompressor();
  ~Decompressor();

  // Fills `contents` exactly or fails, whatever `compressed` is.
  [[nodiscard]] Status decompress(wire::Codec codec, std::span<const std::byte> compressed,
                                  std::span<std::byte> contents);

 private:
  struct Zstd;
  std::unique_ptr<Zstd> zstd_;
};

}  // namespace mose::move
