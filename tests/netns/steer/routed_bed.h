// SPDX-License-Identifier: MIT
#pragma once

#include "bed.h"

// Two nodes on segments of their own, and clients on a third:
//
//   client ---- router (`segment`) ---- node a (up, port of br0, which has the node's addresses) ---- workload
//                     `---------------- node b (the same) ---- workload
//
// The service's addresses are of a's segment. The router has the gateway's addresses on both segments, so that the
// service finds its gateway on either; nobody tells it where the service has gone.
namespace mose::test {

inline constexpr const char* kNodeText4[] = {"192.0.2.11/24", "203.0.113.12/24"};
inline constexpr const char* kNodeText6[] = {"2001:db8::11/64", "2001:db8:b::12/64"};
inline constexpr const char* kGatewayText4 = "192.0.2.1/24";
inline constexpr const char* kGatewayText6 = "2001:db8::1/64";
// A tunnel's headers have 50 or 70 bytes.
inline constexpr unsigned kWorkloadMtu = 1500, kUplinkMtu = 1600;

class RoutedBed : public Bed {
 public:
  explicit RoutedBed(unsigned uplink_mtu = kUplinkMtu);
  std::string gateway = "192.0.2.1";  // of workloads made from now on
  [[nodiscard]] handover::WorkloadNetworkConfig config(const Node& node) const override;
  // Of the router, on the segment of `node`.
  [[nodiscard]] MacAddress gateway_mac(const Node& node) const;
  // The uplink cuts large frames before they leave.
  void segment_in_software(const Node& node) const;
  // As the agent at a asks for the way to b.
  [[nodiscard]] handover::PathQuestion question(int family) const;

 private:
  void wire(const Fd& netns, const std::string& port, const MacAddress& router_mac, const MacAddress& mac,
            unsigned mtu) const;
  void address_router(const std::string& port, std::initializer_list<const char*> addresses) const;
  void address_client() const;
  void address_node(const Node& node, size_t which) const;
};

// A connection with empty queues goes to another namespace, its peer none the wiser.
[[nodiscard]] Fd move_connection(Fd from, const Fd& netns);

}  // namespace mose::test
