// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace mose {

// A raw packet socket (AF_PACKET) bound to one device of the caller's network namespace; non-blocking.
struct PacketSocketOptions {
  uint16_t protocol = 0;     // EtherType to receive (0x0003: all, 0: none, for sending only)
  bool vnet_header = false;  // frames begin with virtio_net_hdr
  uint32_t mark = 0;         // on everything that is sent
  bool promiscuous = false;
};
[[nodiscard]] Result<Fd> open_packet_socket(unsigned ifindex, const PacketSocketOptions& options = {});

// True: sent. False: no room at present (EAGAIN, ENOBUFS, ENOMEM), nothing was sent, try again.
[[nodiscard]] Result<bool> send_frame(int socket, std::span<const uint8_t> frame);
// Bytes of the next frame, or 0 when none waits. `outgoing`: sent by this host, not received.
[[nodiscard]] Result<size_t> receive_frame(int socket, std::span<uint8_t> buffer, bool* outgoing = nullptr);

}  // namespace mose
