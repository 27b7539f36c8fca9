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

inline Bytes cut(Bytes frame, size_t size) {
  frame.resize(size);
  return frame;
}

}  // namespace mose::test
