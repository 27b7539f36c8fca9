// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"
#include "lab/names.h"

// The segment: a switch, a client and two nodes, each a network namespace.
//
//   client(dev .2) ---- pc [sw: br0] pa ---- up [a: br0 .11]
//                               pb ---- up [b: br0 .12]
//
// IPv6 is off before any link goes up: a multicast listener report from a node would move the switch's forwarding entry
// of a service before the service has moved.
namespace mose::lab {

inline constexpr const char* kBridge = "br0";
inline constexpr const char* kUplink = "up";
inline constexpr const char* kClientDevice = "dev";

// The namespaces first, then what connects them. On failure what was made so far remains: take_down_topology() takes it
// down. Uplinks that exist already (link_process.h) are used as they are.
[[nodiscard]] Status make_namespaces(const Names& names);
[[nodiscard]] Status make_links(const Names& names, bool uplinks_exist);
// Removes the namespaces that exist; the links go with them. Not finding one is no failure.
[[nodiscard]] Status take_down_topology(const Names& names);

// What native XDP needs where wires are veth pairs: the switch's ends of the uplinks take frames that a program at the
// other end sends back, and the client completes its checksums as a network card does.
[[nodiscard]] Status prepare_for_xdp(const Names& names);

[[nodiscard]] bool netns_exists(const Names& names, const std::string& place);

// Runs iproute2 with these lines as a batch, inside the named namespace ("" is ours).
[[nodiscard]] Status run_ip(const std::string& netns, const std::string& batch);

// Within the caller's network namespace: IPv6 off for devices now and later, loopback up.
[[nodiscard]] Status prepare_netns();

// Limits both directions of each node's uplink (tbf). The kernel of the host must have it.
[[nodiscard]] Status shape_links(const Names& names, double rate_mbit);

}  // namespace mose::lab
