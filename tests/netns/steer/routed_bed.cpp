// SPDX-License-Identifier: MIT
#include "routed_bed.h"

#include <gtest/gtest.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstring>

#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose::test {
namespace {

// Kinds of TCP options.
constexpr uint32_t kMaxSegment = 2, kWindowScale = 3, kSackPermitted = 4, kTimestamp = 8;

constexpr MacAddress kRouterMac[] = {{2, 0, 0, 0, 7, 1}, {2, 0, 0, 0, 7, 2}, {2, 0, 0, 0, 7, 3}};

Status add_addresses(const Netlink& netlink, unsigned ifindex, std::initializer_list<const char*> addresses) {
  for (const char* text : addresses) {
    MOSE_ASSIGN(auto address, parse_service_address(text));
    MOSE_TRY(netlink.add_address(ifindex, address));
  }
  return {};
}

Status add_gateways(const Netlink& netlink, unsigned ifindex, std::initializer_list<const char*> gateways) {
  for (const char* text : gateways) {
    MOSE_ASSIGN(auto gateway, parse_service_address(text));
    MOSE_TRY(netlink.add_default_route(ifindex, gateway));
  }
  return {};
}

template <typename T>
void take(const Fd& socket, int name, T& value) {
  socklen_t size = sizeof value;
  ASSERT_EQ(getsockopt(socket.get(), IPPROTO_TCP, name, &value, &size), 0) << name << ": " << strerror(errno);
}
template <typename T>
void give(const Fd& socket, int name, const T& value) {
  ASSERT_EQ(setsockopt(socket.get(), IPPROTO_TCP, name, &value, sizeof value), 0) << name << ": " << strerror(errno);
}

}  // namespace

RoutedBed::RoutedBed(unsigned uplink_mtu) : Bed(Unwired{}) {
  wire(client, "rc", kRouterMac[0], {2, 0, 0, 0, 0, 2}, kWorkloadMtu);
  wire(a.netns, "ra", kRouterMac[1], a.uplink_mac, uplink_mtu);
  wire(b.netns, "rb", kRouterMac[2], b.uplink_mac, uplink_mtu);
  in(segment, []() -> Status {
    MOSE_TRY(set_net_sysctl("ipv4/conf/all/forwarding", "1"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/all/forwarding", "1"));
    MOSE_TRY(set_net_sysctl("ipv4/conf/all/rp_filter", "0"));
    return {};
  });
  address_router("rc", {"198.51.100.1/24", "2001:db8:c::1/64"});
  address_router("ra", {kGatewayText4, kGatewayText6});
  address_router("rb", {"203.0.113.1/24", "2001:db8:b::1/64", "192.0.2.1/32", "2001:db8::1/128"});
  address_client();
  address_node(a, 0);
  address_node(b, 1);
  for (const Fd* netns : {&client, &a.netns, &b.netns}) wait_operational(*netns, "up");
  for (const char* port : {"rc", "ra", "rb"}) wait_operational(segment, port);
  for (const Fd* netns : {&a.netns, &b.netns}) wait_operational(*netns, "br0");
}

void RoutedBed::wire(const Fd& netns, const std::string& port, const MacAddress& router_mac, const MacAddress& mac,
                     unsigned mtu) const {
  in(segment, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_TRY(netlink.create_veth(port, "up", mac, netns.get(), mtu));
    MOSE_ASSIGN(auto link, netlink.link(port));
    return netlink.change_link(link.ifindex, {.mac = router_mac});
  });
}

void RoutedBed::address_router(const std::string& port, std::initializer_list<const char*> addresses) const {
  in(segment, [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto link, netlink.link(port));
    MOSE_TRY(set_net_sysctl("ipv4/conf/" + port + "/rp_filter", "0"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/" + port + "/accept_dad", "0"));  // silent for a second otherwise
    MOSE_TRY(netlink.change_link(link.ifindex, {.up = true}));
    return add_addresses(netlink, link.ifindex, addresses);
  });
}

void RoutedBed::address_client() const {
  in(client, []() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/up/accept_dad", "0"));
    MOSE_TRY(netlink.change_link(up.ifindex, {.up = true}));
    MOSE_TRY(add_addresses(netlink, up.ifindex, {"198.51.100.2/24", "2001:db8:c::2/64"}));
    return add_gateways(netlink, up.ifindex, {"198.51.100.1/32", "2001:db8:c::1/128"});
  });
}

void RoutedBed::address_node(const Node& node, size_t which) const {
  in(node.netns, [&]() -> Status {
    MOSE_TRY(set_net_sysctl("ipv6/conf/default/disable_ipv6", "1"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/up/disable_ipv6", "1"));
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto up, netlink.link("up"));
    MOSE_TRY(netlink.create_bridge("br0"));
    MOSE_ASSIGN(auto bridge, netlink.link("br0"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/br0/accept_dad", "0"));
    MOSE_TRY(set_net_sysctl("ipv6/conf/br0/disable_ipv6", "0"));
    MOSE_TRY(netlink.change_link(up.ifindex, {.up = true, .master = bridge.ifindex}));
    // Not the uplink's: what a router sends to the node has the bridge's.
    MacAddress mac{2, 0, 0, 0, 2, static_cast<uint8_t>(which)};
    MOSE_TRY(netlink.change_link(bridge.ifindex, {.mtu = kWorkloadMtu, .mac = mac}));
    MOSE_TRY(netlink.change_link(bridge.ifindex, {.up = true}));
    MOSE_TRY(add_addresses(netlink, bridge.ifindex, {kNodeText4[which], kNodeText6[which]}));
    return which == 0 ? add_gateways(netlink, bridge.ifindex, {"192.0.2.1/32", "2001:db8::1/128"})
                      : add_gateways(netlink, bridge.ifindex, {"203.0.113.1/32", "2001:db8:b::1/128"});
  });
}

MacAddress RoutedBed::gateway_mac(const Node& node) const {
  return kRouterMac[&node == &a ? 1 : 2];
}

void RoutedBed::segment_in_software(const Node& node) const {
  in(node.netns, []() -> Status {
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ethtool_value value{.cmd = ETHTOOL_STSO, .data = 0};
    ifreq request{};
    std::strcpy(request.ifr_name, "up");
    request.ifr_data = reinterpret_cast<char*>(&value);
    if (ioctl(socket.get(), SIOCETHTOOL, &request) != 0) return fail_errno("turn TSO of the uplink off");
    return {};
  });
}

handover::WorkloadNetworkConfig RoutedBed::config(const Node& node) const {
  auto config = Bed::config(node);
  config.gateway = gateway;
  config.neighbours = {{*parse_service_address(kGatewayText4), gateway_mac(node)},
                       {*parse_service_address(kGatewayText6), gateway_mac(node)}};
  return config;
}

handover::PathQuestion RoutedBed::question(int family) const {
  return {.uplink = "up",
          .peer = *parse_service_address(family == AF_INET ? kNodeText4[1] : kNodeText6[1]),
          .by_uplink = true,
          .device = handover::host_device_name("mnet-redis")};
}

Fd move_connection(Fd from, const Fd& netns) {
  const int on = 1, off = 0, none = TCP_NO_QUEUE;
  sockaddr_storage own{}, peer{};
  socklen_t own_size = sizeof own, peer_size = sizeof peer;
  EXPECT_EQ(getsockname(from.get(), reinterpret_cast<sockaddr*>(&own), &own_size), 0);
  EXPECT_EQ(getpeername(from.get(), reinterpret_cast<sockaddr*>(&peer), &peer_size), 0);
  give(from, TCP_REPAIR, on);
  int buffer = 0;
  socklen_t buffer_size = sizeof buffer;
  EXPECT_EQ(getsockopt(from.get(), SOL_SOCKET, SO_RCVBUF, &buffer, &buffer_size), 0);
  buffer /= 2;  // the kernel says the double of what it is told
  uint32_t sequence[2]{}, stamp = 0, segment = 0;
  const int queues[] = {TCP_SEND_QUEUE, TCP_RECV_QUEUE};
  for (int i = 0; i < 2; ++i) {
    give(from, TCP_REPAIR_QUEUE, queues[i]);
    take(from, TCP_QUEUE_SEQ, sequence[i]);
  }
  give(from, TCP_REPAIR_QUEUE, none);
  tcp_info info{};
  tcp_repair_window window{};
  take(from, TCP_INFO, info);
  take(from, TCP_REPAIR_WINDOW, window);
  take(from, TCP_TIMESTAMP, stamp);
  take(from, TCP_MAXSEG, segment);
  from = Fd();

  Fd to;
  EXPECT_TRUE(in_netns(netns.get(), [&]() -> Status {
    to = Fd(socket(own.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return to ? Status{} : fail_errno("socket");
  }));
  give(to, TCP_REPAIR, on);
  EXPECT_EQ(setsockopt(to.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
  EXPECT_EQ(setsockopt(to.get(), SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer), 0);
  for (int i = 0; i < 2; ++i) {
    give(to, TCP_REPAIR_QUEUE, queues[i]);
    give(to, TCP_QUEUE_SEQ, sequence[i]);
  }
  give(to, TCP_REPAIR_QUEUE, none);
  give(to, TCP_TIMESTAMP, stamp);
  EXPECT_EQ(bind(to.get(), reinterpret_cast<sockaddr*>(&own), own_size), 0) << strerror(errno);
  EXPECT_EQ(connect(to.get(), reinterpret_cast<sockaddr*>(&peer), peer_size), 0) << strerror(errno);
  std::vector<tcp_repair_opt> options{{kMaxSegment, segment}};
  if ((info.tcpi_options & TCPI_OPT_SACK) != 0) options.push_back({kSackPermitted, 0});
  if ((info.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0) options.push_back({kTimestamp, 0});
  if ((info.tcpi_options & TCPI_OPT_WSCALE) != 0) {
    options.push_back({kWindowScale, static_cast<uint32_t>(info.tcpi_snd_wscale | info.tcpi_rcv_wscale << 16)});
  }
  EXPECT_EQ(setsockopt(to.get(), IPPROTO_TCP, TCP_REPAIR_OPTIONS, options.data(),
                       static_cast<socklen_t>(options.size() * sizeof options[0])),
            0)
      << strerror(errno);
  give(to, TCP_REPAIR_WINDOW, window);
  give(to, TCP_REPAIR, off);
  return to;
}

}  // namespace mose::test
