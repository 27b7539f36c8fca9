// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "model/workload.h"

// The way of redirected frames to a peer: on one segment they get the address of its uplink; where a router stands
// between they go whole into UDP (VXLAN, RFC 7348), put on and taken off by the steering programs.
namespace mose::handover {

inline constexpr uint16_t kTunnelPort = 4789;

// One direction: from us to the peer where frames are sent, from the peer to us where they are taken. Both addresses
// are of one family.
struct Tunnel {
  ServiceAddress local, remote;  // single addresses: /32 or /128
  uint16_t port = kTunnelPort;   // UDP destination

  bool operator==(const Tunnel&) const = default;
};
// "VXLAN from 198.51.100.1 to 203.0.113.2, port 4789".
[[nodiscard]] std::string format_tunnel(const Tunnel& tunnel);
// Bytes that the headers add to a packet.
[[nodiscard]] unsigned tunnel_room(int family);

struct PeerPath {
  MacAddress mac{};  // where redirected frames are addressed to: the peer's uplink, with a tunnel the next hop
  std::optional<Tunnel> tunnel;

  bool operator==(const PeerPath&) const = default;
};

struct PathQuestion {
  std::string uplink;      // device, in the caller's network namespace
  ServiceAddress peer;     // one that it has on its uplink or its bridge
  bool by_uplink = false;  // the operator says so: a route by another device is an error, not another network
  std::string device;      // host end of the workload's pair: its MTU bounds the frames
  uint16_t port = kTunnelPort;
};
// As the kernel routes to the peer. Without a gateway, or by a device that is no way of redirected frames, the peer is
// taken for one on the segment: no tunnel, and the MAC is for the peer to say. Else a tunnel by the gateway, which is
// asked for its MAC when it is not known (some ms, at most a second and a half). Fails when the largest frame with the
// tunnel's headers would not fit.
[[nodiscard]] Result<PeerPath> find_peer_path(const PathQuestion& question);

}  // namespace mose::handover
