// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/workload.h"

// One direction of a conversation between two addresses, as an operator asks about it.
namespace mose {

enum class FlowProtocol : uint8_t { icmp = 1, tcp = 6, udp = 17 };
[[nodiscard]] std::string_view to_string(FlowProtocol protocol);

struct Flow {
  FlowProtocol protocol = FlowProtocol::tcp;
  ServiceAddress source, destination;  // the prefix does not matter
  uint16_t source_port = 0, destination_port = 0;  // 0 for icmp
  bool opens = false;  // TCP: the packet that asks for a connection

  bool operator==(const Flow&) const = default;
};

// "tcp 192.0.2.9:40000 192.0.2.10:6379", "udp [2001:db8::9]:40000 [2001:db8::10]:53", "icmp 192.0.2.9 192.0.2.10"; with
// "syn" at its end a connection request. Both addresses are of one family.
[[nodiscard]] Result<Flow> parse_flow(std::string_view text);
[[nodiscard]] std::string format_flow(const Flow& flow);

}  // namespace mose
