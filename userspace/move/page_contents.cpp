// SPDX-License-Identifier: MIT
#include "move/page_contents.h"

#include <algorithm>
#include <cstring>

namespace mose::move {
namespace {

// Half of a small second-level cache.
constexpr size_t kCachedBytes = 128u << 10;
static_assert(kCachedBytes % kPageSize == 0);

void add_sums(const void* pages, size_t bytes, std::vector<uint64_t>& sums) {
  for (size_t at = 0; at < bytes; at += kPageSize) sums.push_back(page_sum(static_cast<const std::byte*>(pages) + at));
}

// Pages are hashed while they still lie in the processor's cache.
Result<std::vector<uint64_t>> receive_and_sum(Channel& channel, std::span<const iovec> into) {
  std::vector<uint64_t> sums;
  std::vector<iovec> piece;
  size_t bytes = 0;
  auto receive_piece = [&]() -> Status {
    std::vector<iovec> vectors = piece;
    MOSE_TRY(channel.receive_into(vectors));
    for (const iovec& part : piece) add_sums(part.iov_base, part.iov_len, sums);
    piece.clear();
    bytes = 0;
    return {};
  };
  for (iovec part : into) {
    while (part.iov_len != 0) {
      const size_t take = std::min(part.iov_len, kCachedBytes - bytes);
      piece.push_back({part.iov_base, take});
      part = {static_cast<std::byte*>(part.iov_base) + take, part.iov_len - take};
      bytes += take;
      if (bytes == kCachedBytes) MOSE_TRY(receive_piece());
    }
  }
  if (!piece.empty()) MOSE_TRY(receive_piece());
  return sums;
}

}  // namespace

Status receive_raw(Channel& channel, const wire::FrameHeader& frame, const wire::PagesHeader& header,
                   std::span<const wire::Run> runs, std::span<const iovec> into) {
  uint64_t sum = 0;
  if (header.flags == wire::kPagesBySums) {
    MOSE_ASSIGN(std::vector<uint64_t> sums, receive_and_sum(channel, into));
    sum = sums_checksum(header, runs, sums);
  } else {
    std::vector<iovec> vectors(into.begin(), into.end());
    MOSE_TRY(channel.receive_into(vectors));
    std::vector<std::span<const std::byte>> parts = {std::as_bytes(std::span(&header, 1)), std::as_bytes(runs)};
    for (const iovec& part : into) parts.emplace_back(static_cast<const std::byte*>(part.iov_base), part.iov_len);
    sum = checksum(parts);
  }
  if (sum != frame.checksum) return fail("PAGES frame with a wrong checksum");
  return {};
}

Status Inflater::receive(Channel& channel, const wire::FrameHeader& frame, const wire::PagesHeader& header,
                         std::span<const wire::Run> runs) {
  // check_pages_header() has bounded both sizes.
  const size_t size = frame.length - sizeof(header) - runs.size_bytes();
  compressed_.resize(std::max(compressed_.size(), size));
  MOSE_TRY(channel.receive_into(compressed_.data(), size));
  contents_.resize(header.pages * kPageSize);
  const auto codec = static_cast<wire::Codec>(header.codec);
  MOSE_TRY(decompressor_.decompress(codec, std::span(compressed_).first(size), contents_));
  std::vector<uint64_t> sums;
  sums.reserve(header.pages);
  add_sums(contents_.data(), contents_.size(), sums);
  if (sums_checksum(header, runs, sums) != frame.checksum) return fail("PAGES frame with a wrong checksum");
  return {};
}

void Inflater::copy_to(std::span<const iovec> parts) const {
  const std::byte* from = contents_.data();
  for (const iovec& part : parts) {
    memcpy(part.iov_base, from, part.iov_len);
    from += part.iov_len;
  }
}

}  // namespace mose::move
