// SPDX-License-Identifier: MIT
#include "handover/neighbour_frames.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <initializer_list>

namespace mose::handover {
namespace {

constexpr size_t kEthernetHeader = 14;
constexpr size_t kEthernetMin = 60;  // without checksum; shorter ones some cards refuse
constexpr uint16_t kTypeArp = 0x0806, kTypeIpv6 = 0x86dd;
constexpr uint8_t kIcmpv6 = 58, kSolicitation = 135, kAdvertisement = 136;
constexpr uint8_t kNeighbourHopLimit = 255;  // anything else was forwarded and is ignored
constexpr size_t kIpv6Header = 40;
constexpr size_t kTargetAt = kEthernetHeader + kIpv6Header + 8;
constexpr MacAddress kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
using Ipv6 = std::array<uint8_t, 16>;

class Writer {
 public:
  template <typename Range>
  Writer& bytes(const Range& range) {
    out_.insert(out_.end(), std::begin(range), std::end(range));
    return *this;
  }
  Writer& raw(std::initializer_list<uint8_t> list) { return bytes(list); }
  Writer& u16(uint16_t value) { return raw({static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)}); }
  std::vector<uint8_t>& out() { return out_; }

 private:
  std::vector<uint8_t> out_;
};

std::span<const uint8_t> ipv4(const ServiceAddress& address) {
  return std::span(address.bytes).first(4);
}

std::vector<uint8_t> arp(ArpOperation operation, const MacAddress& mac, std::span<const uint8_t> sender,
                         const MacAddress& target_mac, std::span<const uint8_t> target) {
  Writer writer;
  writer.bytes(kBroadcast).bytes(mac).u16(kTypeArp);
  writer.u16(1).u16(0x0800).raw({6, 4}).u16(static_cast<uint16_t>(operation));
  writer.bytes(mac).bytes(sender).bytes(target_mac).bytes(target);
  writer.out().resize(kEthernetMin);
  return std::move(writer.out());
}

// Checksum over the pseudo-header and the ICMPv6 message that begins after the IPv6 header.
void finish_icmpv6(std::vector<uint8_t>& frame) {
  size_t length = frame.size() - kEthernetHeader - kIpv6Header;
  uint32_t sum = static_cast<uint32_t>(length) + kIcmpv6;
  for (size_t at = kEthernetHeader + 8; at + 1 < frame.size(); at += 2) {  // addresses, then the message
    sum += static_cast<uint32_t>(frame[at] << 8 | frame[at + 1]);
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  uint16_t checksum = static_cast<uint16_t>(~sum);
  frame[kEthernetHeader + kIpv6Header + 2] = static_cast<uint8_t>(checksum >> 8);
  frame[kEthernetHeader + kIpv6Header + 3] = static_cast<uint8_t>(checksum);
}

std::vector<uint8_t> icmpv6(const MacAddress& mac, const Ipv6& source, const Ipv6& destination, uint8_t type,
                            uint8_t flags, const Ipv6& target, bool with_link_layer) {
  // A multicast address maps to 33:33 and its last four bytes.
  MacAddress to{0x33, 0x33, destination[12], destination[13], destination[14], destination[15]};
  uint16_t length = with_link_layer ? 32 : 24;
  Writer writer;
  writer.bytes(to).bytes(mac).u16(kTypeIpv6);
  writer.raw({0x60, 0, 0, 0}).u16(length).raw({kIcmpv6, kNeighbourHopLimit}).bytes(source).bytes(destination);
  writer.raw({type, 0, 0, 0, flags, 0, 0, 0}).bytes(target);
  if (with_link_layer) writer.raw({2, 1}).bytes(mac);  // target link-layer address
  finish_icmpv6(writer.out());
  return std::move(writer.out());
}

}  // namespace

std::vector<uint8_t> arp_announcement(const ServiceAddress& address, const MacAddress& mac, ArpOperation operation) {
  MacAddress target = operation == ArpOperation::request ? MacAddress{} : kBroadcast;
  return arp(operation, mac, ipv4(address), target, ipv4(address));
}

std::vector<uint8_t> neighbour_advertisement(const ServiceAddress& address, const MacAddress& mac) {
  constexpr Ipv6 kAllNodes{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  constexpr uint8_t kOverride = 0x20;  // replaces what the receiver knows
  return icmpv6(mac, address.bytes, kAllNodes, kAdvertisement, kOverride, address.bytes, true);
}

std::vector<uint8_t> address_probe(const ServiceAddress& address, const MacAddress& sender) {
  if (address.family == AF_INET) {
    constexpr std::array<uint8_t, 4> kNobody{};
    return arp(ArpOperation::request, sender, kNobody, {}, ipv4(address));
  }
  const auto& b = address.bytes;
  Ipv6 solicited{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, b[13], b[14], b[15]};
  return icmpv6(sender, {}, solicited, kSolicitation, 0, address.bytes, false);
}

std::optional<MacAddress> claimed_by(std::span<const uint8_t> frame, const ServiceAddress& address) {
  auto mac_at = [&](size_t at) {
    MacAddress mac;
    std::copy_n(frame.begin() + static_cast<ptrdiff_t>(at), mac.size(), mac.begin());
    return mac;
  };
  auto is_at = [&](size_t at, size_t size) {
    return std::equal(address.bytes.begin(), address.bytes.begin() + static_cast<ptrdiff_t>(size),
                      frame.begin() + static_cast<ptrdiff_t>(at));
  };
  if (frame.size() < kEthernetHeader) return std::nullopt;
  auto type = static_cast<uint16_t>(frame[12] << 8 | frame[13]);
  constexpr size_t kArpSize = 28, kSenderMac = kEthernetHeader + 8, kSenderIp = kEthernetHeader + 14;
  if (address.family == AF_INET && type == kTypeArp && frame.size() >= kEthernetHeader + kArpSize) {
    if (is_at(kSenderIp, 4)) return mac_at(kSenderMac);
  }
  if (address.family == AF_INET6 && type == kTypeIpv6 && frame.size() >= kTargetAt + 16) {
    bool advertises = frame[kEthernetHeader + 6] == kIcmpv6 && frame[kEthernetHeader + 7] == kNeighbourHopLimit &&
                      frame[kEthernetHeader + kIpv6Header] == kAdvertisement;
    if (advertises && is_at(kTargetAt, 16)) return mac_at(6);
  }
  return std::nullopt;
}

}  // namespace mose::handover
