// SPDX-License-Identifier: MIT
#include "handover/announce.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>

#include "handover/neighbour_frames.h"
#include "kernel/packet_socket.h"

namespace mose::handover {

Result<Announcer> Announcer::open(unsigned device_ifindex, const std::vector<ServiceAddress>& addresses,
                                  const MacAddress& mac) {
  MOSE_ASSIGN(Fd socket, open_packet_socket(device_ifindex));
  std::vector<std::vector<uint8_t>> frames;
  for (const ServiceAddress& address : addresses) {
    if (address.family == AF_INET) {
      frames.push_back(arp_announcement(address, mac, ArpOperation::request));
      frames.push_back(arp_announcement(address, mac, ArpOperation::reply));
    } else {
      frames.push_back(neighbour_advertisement(address, mac));
    }
  }
  return Announcer(std::move(socket), std::move(frames));
}

Status Announcer::send_round() const {
  Status first;
  for (const auto& frame : frames_) {
    auto sent = send_frame(socket_.get(), frame);
    if (first && !sent) first = std::unexpected(sent.error());
    if (first && sent && !*sent) first = fail_errno("announcement", ENOBUFS);
  }
  return first;
}

}  // namespace mose::handover
