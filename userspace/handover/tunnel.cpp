// SPDX-License-Identifier: MIT
#include "handover/tunnel.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include "kernel/netlink.h"

namespace mose::handover {
namespace {

constexpr unsigned kEthernet = 14, kUdp = 8, kVxlan = 8, kIpv4 = 20, kIpv6 = 40;
// ARP and neighbour discovery ask again after a second.
constexpr Nanoseconds kNextHopBound = std::chrono::milliseconds(1500);

// A frame of the workload's largest packet in its tunnel, against what the way there takes.
Status check_mtu(const Netlink& netlink, const PathQuestion& question, const Netlink::LinkInfo& uplink,
                 const Netlink::RouteInfo& route) {
  MOSE_ASSIGN(auto device, netlink.link(question.device));
  const unsigned room = tunnel_room(question.peer.family), needed = device.mtu + room;
  const bool narrow_route = route.mtu != 0 && route.mtu < uplink.mtu;
  const unsigned most = narrow_route ? route.mtu : uplink.mtu;
  if (needed <= most) return {};
  const std::string peer = format_address(question.peer);
  return fail(fmt::format(
      "packets to the workload have up to {} bytes (MTU of its device {}), {} in the VXLAN tunnel to {}, and {} takes "
      "{}: "
      "raise that MTU to {}{}, or lower the bridge's to {} and start the workload again",
      device.mtu, device.name, needed, peer, narrow_route ? "the route there" : fmt::format("uplink {}", uplink.name),
      most, needed, narrow_route ? "" : " on the whole way", most - room));
}

// On one segment they go as they are, by the uplink.
Status check_segment_mtu(const Netlink& netlink, const PathQuestion& question, const Netlink::LinkInfo& uplink) {
  MOSE_ASSIGN(auto device, netlink.link(question.device));
  if (device.mtu <= uplink.mtu) return {};
  return fail(fmt::format("packets to the workload have up to {} bytes (MTU of its device {}), and uplink {}, by which the "
                          "late ones are sent on, takes {}: raise that MTU, or lower the bridge's and start the workload again",
                          device.mtu, device.name, uplink.name, uplink.mtu));
}

}  // namespace

std::string format_tunnel(const Tunnel& tunnel) {
  return fmt::format("VXLAN from {} to {}, port {}", format_address(tunnel.local), format_address(tunnel.remote),
                     tunnel.port);
}

unsigned tunnel_room(int family) {
  return (family == AF_INET ? kIpv4 : kIpv6) + kUdp + kVxlan + kEthernet;
}

Result<PeerPath> find_peer_path(const PathQuestion& question) {
  const std::string where = "the way to " + format_address(question.peer);
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto uplink, netlink.link(question.uplink));
  auto route = netlink.route(question.peer);
  if (!route) return context(where, route.error());
  // A node's address is its bridge's, of which the uplink is a port, or its uplink's.
  const bool by_uplink = route->ifindex == uplink.ifindex || (uplink.master != 0 && route->ifindex == uplink.master);
  if (!by_uplink && question.by_uplink) {
    auto other = netlink.link(route->ifindex);
    return fail(fmt::format("{} leads by {}, not by uplink {}: give the peer's address there, or a route", where,
                            other ? other->name : "another device", question.uplink));
  }
  if (!by_uplink || !route->gateway) {
    MOSE_TRY(check_segment_mtu(netlink, question, uplink));
    return PeerPath{};
  }
  MOSE_TRY(check_mtu(netlink, question, uplink, *route));
  auto mac = netlink.resolve_neighbour(route->ifindex, *route->gateway, kNextHopBound);
  if (!mac) return context(where, mac.error());
  Tunnel tunnel{.local = route->source, .remote = question.peer, .port = question.port};
  tunnel.remote.prefix = route->source.prefix;  // one address, as the kernel names its own
  return PeerPath{*mac, tunnel};
}

}  // namespace mose::handover
