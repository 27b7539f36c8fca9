// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace mose {

// A tap device (layer 2, IFF_VNET_HDR, non-blocking) that exists as long as its descriptor. What the kernel sends to it
// waits in its queue until read. Each frame begins with the 10-byte virtio_net_hdr, so that segmentation offload and
// unfinished checksums survive.
struct Tap {
  Fd fd;
  unsigned ifindex = 0;
};

inline constexpr size_t kVnetHeaderSize = 10;
// Largest frame with its header: 64 KiB of a segmentation-offload packet and its headers.
inline constexpr size_t kTapFrameMax = 68 * 1024;

// In the caller's network namespace; up, without IPv6 of its own (it must not say anything), with room for
// `queue_length` frames.
[[nodiscard]] Result<Tap> create_tap(const std::string& name, unsigned queue_length);

// Another descriptor of a tap that create_tap() made, wherever it comes from; refused when it is not tap `name` of the
// caller's network namespace. With its queue: what waits in it is kept.
[[nodiscard]] Result<Tap> adopt_tap(Fd fd, const std::string& name);

}  // namespace mose
