// SPDX-License-Identifier: MIT
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "handover/neighbour_frames.h"
#include "handover/workload_network.h"
#include "kernel/netlink.h"
#include "kernel/packet_socket.h"

namespace mose::handover {
namespace {

constexpr uint16_t kArp = 0x0806, kIpv6 = 0x86dd;
constexpr size_t kFrameMax = 2048;  // more than any answer has

}  // namespace

Result<std::vector<MacAddress>> probe_address(const std::string& device, const ServiceAddress& address,
                                              Nanoseconds bound) {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto link, netlink.link(device));
  // Answers to a solicitation from :: go to a multicast address that the device need not listen to.
  PacketSocketOptions options{.protocol = address.family == AF_INET ? kArp : kIpv6, .promiscuous = true};
  MOSE_ASSIGN(Fd socket, open_packet_socket(link.ifindex, options));
  std::vector<uint8_t> probe = address_probe(address, link.mac);
  std::vector<uint8_t> buffer(kFrameMax);
  std::vector<MacAddress> found;
  auto take_answers = [&]() -> Status {
    for (bool outgoing = false;;) {
      MOSE_ASSIGN(size_t size, receive_frame(socket.get(), buffer, &outgoing));
      if (size == 0) return {};
      auto mac = outgoing ? std::nullopt : claimed_by(std::span(buffer).first(std::min(size, buffer.size())), address);
      if (mac && std::find(found.begin(), found.end(), *mac) == found.end()) found.push_back(*mac);
    }
  };
  Timestamp begin = now();
  unsigned sent = 0;
  for (Timestamp time = begin; time < begin + bound; time = now()) {
    Timestamp next = sent < 2 ? begin + bound / 2 * sent : begin + bound;
    if (time >= next) {
      MOSE_ASSIGN(bool went, send_frame(socket.get(), probe));
      (void)went;  // no room: the second one may have
      ++sent;
      continue;
    }
    pollfd wait{.fd = socket.get(), .events = POLLIN};
    auto left = std::chrono::ceil<std::chrono::milliseconds>(next - time);
    if (poll(&wait, 1, static_cast<int>(left.count())) < 0 && errno != EINTR) return fail_errno("wait for answers");
    MOSE_TRY(take_answers());
  }
  // What has come while this thread had no processor.
  MOSE_TRY(take_answers());
  return found;
}

}  // namespace mose::handover
