// SPDX-License-Identifier: MIT
#include "handover/neighbour_frames.h"

#include <gtest/gtest.h>

namespace mose::handover {
namespace {

constexpr MacAddress kMac{2, 0, 0, 0, 0, 0x10}, kOther{2, 0, 0, 0, 0, 0x20};

ServiceAddress address(const char* text) {
  auto parsed = parse_service_address(text);
  EXPECT_TRUE(parsed.has_value());
  return parsed.value_or(ServiceAddress{});
}
const ServiceAddress kV4 = address("192.0.2.10/24"), kOtherV4 = address("192.0.2.11/24");
const ServiceAddress kV6 = address("2001:db8::10/64"), kOtherV6 = address("2001:db8::11/64");

TEST(NeighbourFrames, AnAnnouncementClaimsItsAddressAndNoOther) {
  for (ArpOperation operation : {ArpOperation::request, ArpOperation::reply}) {
    auto frame = arp_announcement(kV4, kMac, operation);
    EXPECT_EQ(frame.size(), 60u);
    EXPECT_EQ(frame[21], static_cast<uint8_t>(operation));
    EXPECT_EQ(claimed_by(frame, kV4), kMac);
    EXPECT_EQ(claimed_by(frame, kOtherV4), std::nullopt);
    EXPECT_EQ(claimed_by(frame, kV6), std::nullopt);
  }
  auto frame = neighbour_advertisement(kV6, kMac);
  EXPECT_EQ(claimed_by(frame, kV6), kMac);
  EXPECT_EQ(claimed_by(frame, kOtherV6), std::nullopt);
  EXPECT_EQ(claimed_by(frame, kV4), std::nullopt);
}

TEST(NeighbourFrames, AProbeClaimsNothing) {
  EXPECT_EQ(claimed_by(address_probe(kV4, kOther), kV4), std::nullopt);
  EXPECT_EQ(claimed_by(address_probe(kV6, kOther), kV6), std::nullopt);
}

TEST(NeighbourFrames, EthernetSourceIsTheServiceSoThatSwitchesLearn) {
  for (const auto& frame : {arp_announcement(kV4, kMac, ArpOperation::request), neighbour_advertisement(kV6, kMac)}) {
    EXPECT_TRUE(std::equal(kMac.begin(), kMac.end(), frame.begin() + 6));
  }
}

// The receiver's sum over pseudo-header and message, checksum included, is all ones.
TEST(NeighbourFrames, ChecksumOfIcmpv6IsRight) {
  for (const auto& frame : {neighbour_advertisement(kV6, kMac), address_probe(kV6, kMac)}) {
    size_t message = frame.size() - 14 - 40;
    uint32_t sum = static_cast<uint32_t>(message) + 58;
    for (size_t at = 22; at < frame.size(); at += 2) sum += static_cast<uint32_t>(frame[at] << 8 | frame[at + 1]);
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    EXPECT_EQ(sum, 0xffffu);
    EXPECT_EQ(frame[19], message) << "payload length";
    EXPECT_EQ(frame[21], 255) << "hop limit";
  }
}

TEST(NeighbourFrames, AProbeGoesToTheSolicitedNodeGroup) {
  auto frame = address_probe(kV6, kMac);
  const uint8_t expected[] = {0x33, 0x33, 0xff, 0x00, 0x00, 0x10};
  EXPECT_TRUE(std::equal(std::begin(expected), std::end(expected), frame.begin()));
}

TEST(NeighbourFrames, CutFramesAreReadByNobody) {
  auto v4 = arp_announcement(kV4, kMac, ArpOperation::reply);
  for (size_t size = 0; size < 42; ++size) EXPECT_EQ(claimed_by(std::span(v4).first(size), kV4), std::nullopt) << size;
  auto v6 = neighbour_advertisement(kV6, kMac);
  for (size_t size = 0; size < 78; ++size) EXPECT_EQ(claimed_by(std::span(v6).first(size), kV6), std::nullopt) << size;
}

TEST(NeighbourFrames, AForwardedAdvertisementDoesNotCount) {
  auto frame = neighbour_advertisement(kV6, kMac);
  frame[21] = 254;
  EXPECT_EQ(claimed_by(frame, kV6), std::nullopt);
}

}  // namespace
}  // namespace mose::handover
