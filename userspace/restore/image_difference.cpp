// SPDX-License-Identifier: MIT
#include "restore/image_difference.h"

#include <algorithm>
#include <cstring>

#include "base/xxh3.h"
#include "model/page_set.h"
#include "restore/images.h"

namespace mose::restore {
namespace {

constexpr uint64_t kBlock = kPageSize;
constexpr uint64_t kLaterBytesMin = 2 * kBlock;  // below it names and numbers are as long as what they spare

}  // namespace

std::optional<ImageDifference> image_difference(std::string_view early, std::string_view later) {
  if (later.size() < kLaterBytesMin) return std::nullopt;
  ImageDifference out{.size = later.size(), .checksum = 0, .pieces = {}};
  uint64_t bytes = 0;
  for (uint64_t at = 0; at < later.size(); at += kBlock) {
    const std::string_view block = later.substr(at, kBlock);
    if (at < early.size() && early.substr(at, kBlock) == block) continue;
    bytes += block.size();
    if (bytes > later.size() / 2) return std::nullopt;
    if (!out.pieces.empty() && out.pieces.back().offset + out.pieces.back().bytes.size() == at) {
      ImagePiece& last = out.pieces.back();
      last.bytes = later.substr(last.offset, last.bytes.size() + block.size());
    } else {
      out.pieces.push_back({at, block});
    }
  }
  out.checksum = XXH3_64bits(later.data(), later.size());
  return out;
}

Result<std::string> apply_difference(std::string_view early, const ImageDifference& difference) {
  if (difference.size > kImageBytesMax) return fail("it is too large");
  std::string out(early.substr(0, difference.size));
  out.resize(difference.size);
  uint64_t end = 0;
  for (const ImagePiece& piece : difference.pieces) {
    if (piece.offset < end || piece.offset > out.size() || piece.bytes.size() > out.size() - piece.offset || piece.bytes.empty())
      return fail("its pieces are out of order or out of it");
    memcpy(out.data() + piece.offset, piece.bytes.data(), piece.bytes.size());
    end = piece.offset + piece.bytes.size();
  }
  if (XXH3_64bits(out.data(), out.size()) != difference.checksum) return fail("the earlier image is not the one that it was made from");
  return out;
}

}  // namespace mose::restore
