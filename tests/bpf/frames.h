// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

// Frames byte by byte, as rows of a test read best: frame() | eth(...) | vlan(7) | ipv4(...) | tcp(kSyn).
// Addresses are from the documentation ranges. Checksums are left out: steering never looks at them.
namespace mose::test {

using Bytes = std::vector<uint8_t>;
using Mac = std::array<uint8_t, 6>;

inline Bytes operator|(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}
inline Bytes be16(unsigned value) {
  return {static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)};
}
template <typename Range>
Bytes bytes(const Range& range) {
  return Bytes(range.begin(), range.end());
}

constexpr unsigned kArp = 0x0806, kIpv4 = 0x0800, kIpv6 = 0x86dd, kVlan = 0x8100, kQinq = 0x88a8, kLldp = 0x88cc;
constexpr uint8_t kHop = 0, kIcmp = 1, kTcp = 6, kUdp = 17, kRouting = 43, kFragment = 44, kAuth = 51, kIcmpv6 = 58,
                  kDest = 60;
constexpr uint8_t kSyn = 0x02, kAck = 0x10, kFin = 0x01;

inline Bytes eth(const Mac& to, const Mac& from, unsigned type) {
  return bytes(to) | bytes(from) | be16(type);
}
// Follows an Ethernet header whose type is kVlan or kQinq.
inline Bytes vlan(unsigned id, unsigned type) {
  return be16(id) | be16(type);
}
inline Bytes arp() {
  return be16(1) | be16(kIpv4) | Bytes{6, 4} | be16(1) | Bytes(20, 0);
}

using V4 = std::array<uint8_t, 4>;
using V6 = std::array<uint8_t, 16>;
// `words`: length of the header in 32-bit words; what exceeds 5 are options. `fragment`: offset in units of 8 bytes.
inline Bytes ipv4(const V4& from, const V4& to, uint8_t protocol, unsigned words = 5, unsigned fragment = 0,
                  unsigned version = 4) {
  Bytes options(words > 5 ? (words - 5) * 4 : 0, 1);
  return Bytes{static_cast<uint8_t>(version << 4 | words), 0} | be16(words * 4 + 20) | be16(7) | be16(fragment) |
         Bytes{64, protocol} | be16(0) | bytes(from) | bytes(to) | options;
}
inline Bytes ipv6(const V6& from, const V6& to, uint8_t next, unsigned version = 6) {
  return Bytes{static_cast<uint8_t>(version << 4), 0, 0, 0} | be16(20) | Bytes{next, 64} | bytes(from) | bytes(to);
}
// A hop-by-hop, routing or destination header of `units` + 1 times 8 bytes.
inline Bytes extension(uint8_t next, uint8_t units = 0) {
  return Bytes{next, units} | Bytes(6 + units * 8u, 0);
}
inline Bytes fragment(uint8_t next, unsigned offset, bool more = false) {
  return Bytes{next, 0} | be16(offset << 3 | (more ? 1 : 0)) | Bytes(4, 9);
}
inline Bytes auth(uint8_t next) {
  return Bytes{next, 4} | Bytes(22, 0);
}  // (4 + 2) * 4 bytes

inline Bytes tcp(uint8_t flags) {
  return be16(40000) | be16(6379) | Bytes(8, 0) | Bytes{0x50, flags} | Bytes(6, 0);
}
inline Bytes udp() {
  return be16(40000) | be16(53) | be16(20) | be16(0) | Bytes(12, 0xaa);
}
inline Bytes icmpv6(uint8_t type) {
  return Bytes{type, 0} | Bytes(22, 0);
}

// VXLAN around a frame: what stands between the outer Ethernet header and the inner one.
struct Tunnelled {
  unsigned source_port = 0, port = 4789, vni = 0x4d4f53;
  uint8_t flags = 0x08;
};
inline Bytes vxlan(const Tunnelled& with, size_t inner) {
  return be16(with.source_port) | be16(with.port) | be16(static_cast<unsigned>(16 + inner)) | be16(0) |
         Bytes{with.flags, 0, 0, 0, static_cast<uint8_t>(with.vni >> 16), static_cast<uint8_t>(with.vni >> 8),
               static_cast<uint8_t>(with.vni), 0};
}
inline Bytes ipv4_checked(Bytes header) {
  unsigned sum = 0;
  header[10] = header[11] = 0;
  for (size_t i = 0; i + 1 < header.size(); i += 2) sum += header[i] * 256u + header[i + 1];
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  header[10] = static_cast<uint8_t>(~sum >> 8);
  header[11] = static_cast<uint8_t>(~sum);
  return header;
}
inline Bytes in_tunnel4(const Mac& to, const Mac& from, const V4& local, const V4& remote, const Bytes& frame,
                        const Tunnelled& with = {}) {
  auto length = static_cast<unsigned>(frame.size());
  return eth(to, from, kIpv4) |
         ipv4_checked(Bytes{0x45, 0} | be16(36 + length) | Bytes{0, 0, 0x40, 0, 64, kUdp, 0, 0} | bytes(local) |
                      bytes(remote)) |
         vxlan(with, length) | frame;
}
inline Bytes in_tunnel6(const Mac& to, const Mac& from, const V6& local, const V6& remote, const Bytes& frame,
                        const Tunnelled& with = {}) {
  auto length = static_cast<unsigned>(frame.size());
  return eth(to, from, kIpv6) | Bytes{0x60, 0, 0, 0} | be16(16 + length) | Bytes{kUdp, 64} | bytes(local) |
         bytes(remote) | vxlan(with, length) | frame;
}
// Of a frame that has been put into a tunnel; 0: it is too short for one.
inline unsigned source_port_of(const Bytes& frame) {
  size_t offset = frame.size() > 14 && frame[12] == 0x08 ? 34 : 54;
  return frame.size() < offset + 2 ? 0 : frame[offset] * 256u + frame[offset + 1];
}

inline Bytes cut(Bytes frame, size_t size) {
  frame.resize(size);
  return frame;
}

}  // namespace mose::test
