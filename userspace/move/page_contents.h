// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <span>
#include <vector>

#include "move/channel.h"
#include "move/compression.h"

// The contents of a PAGES frame at the receiving end: header and runs have been read and checked, the rest is on the
// channel.
namespace mose::move {

// Codec::raw, straight into `into`. An error (a wrong checksum among them) leaves anything there.
[[nodiscard]] Status receive_raw(Channel& channel, const wire::FrameHeader& frame, const wire::PagesHeader& header,
                                 std::span<const wire::Run> runs, std::span<const iovec> into);

// Takes one compressed frame at a time, and lets nothing of it out before its checksum was right. Memory: twice the
// contents of a frame, and zstd's own 150 KiB.
class Inflater {
 public:
  [[nodiscard]] Status receive(Channel& channel, const wire::FrameHeader& frame, const wire::PagesHeader& header,
                               std::span<const wire::Run> runs);
  // What was received last, to parts that together have its size.
  void copy_to(std::span<const iovec> parts) const;

 private:
  Decompressor decompressor_;
  std::vector<std::byte> compressed_, contents_;
};

}  // namespace mose::move
