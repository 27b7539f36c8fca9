// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/workload.h"

// Frames of ARP (RFC 826, 5227) and IPv6 neighbour discovery (RFC 4861), made and read; pure.
namespace mose::handover {

enum class ArpOperation : uint8_t { request = 1, reply = 2 };
// "This address is at this MAC", to everybody.
[[nodiscard]] std::vector<uint8_t> arp_announcement(const ServiceAddress& address, const MacAddress& mac,
                                                    ArpOperation operation);
[[nodiscard]] std::vector<uint8_t> neighbour_advertisement(const ServiceAddress& address, const MacAddress& mac);

// "Does anybody have this address?", without claiming one: ARP from 0.0.0.0, or a solicitation from ::.
[[nodiscard]] std::vector<uint8_t> address_probe(const ServiceAddress& address, const MacAddress& sender);

// The MAC that `frame` says has `address`, if it is ARP from that address or an advertisement of it.
[[nodiscard]] std::optional<MacAddress> claimed_by(std::span<const uint8_t> frame, const ServiceAddress& address);

}  // namespace mose::handover
