// SPDX-License-Identifier: MIT
#include "kernel/packet_socket.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

namespace mose {

Result<Fd> open_packet_socket(unsigned ifindex, const PacketSocketOptions& options) {
  // Protocol 0 until bound: otherwise frames of all devices would be queued first.
  Fd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("packet socket");
  int one = 1;
  if (options.vnet_header && setsockopt(fd.get(), SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0) {
    return fail_errno("packet socket: PACKET_VNET_HDR");
  }
  if (options.mark != 0 && setsockopt(fd.get(), SOL_SOCKET, SO_MARK, &options.mark, sizeof options.mark) < 0) {
    return fail_errno("packet socket: SO_MARK");
  }
  packet_mreq membership{.mr_ifindex = static_cast<int>(ifindex), .mr_type = PACKET_MR_PROMISC};
  if (options.promiscuous &&
      setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) < 0) {
    return fail_errno("packet socket: promiscuous");
  }
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(options.protocol);
  address.sll_ifindex = static_cast<int>(ifindex);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    return fail_errno("packet socket on device " + std::to_string(ifindex));
  }
  return fd;
}

Result<bool> send_frame(int socket, std::span<const uint8_t> frame) {
  for (;;) {
    ssize_t sent = send(socket, frame.data(), frame.size(), MSG_DONTWAIT);
    if (sent >= 0) return true;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM) return false;
    return fail_errno("send a frame of " + std::to_string(frame.size()) + " bytes");
  }
}

Result<size_t> receive_frame(int socket, std::span<uint8_t> buffer, bool* outgoing) {
  sockaddr_ll from{};
  for (;;) {
    socklen_t size = sizeof from;
    ssize_t got =
        recvfrom(socket, buffer.data(), buffer.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&from), &size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return size_t{0};
    if (got < 0) return fail_errno("receive a frame");
    if (outgoing != nullptr) *outgoing = from.sll_pkttype == PACKET_OUTGOING;
    return static_cast<size_t>(got);
  }
}

}  // namespace mose
