// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "model/workload.h"

struct nl_sock;
struct nl_msg;

namespace mose {

// Requests to the kernel's routing netlink, in the network namespace of the thread that called open(), which the object
// keeps for good. One request, one answer; errors carry the kernel's errno and words.
class Netlink {
 public:
  [[nodiscard]] static Result<Netlink> open();

  struct LinkInfo {
    unsigned ifindex = 0;
    std::string name;
    MacAddress mac{};
    unsigned master = 0;  // ifindex of the bridge it is a port of
    unsigned peer = 0;    // veth: ifindex of the other end in its own namespace
    unsigned mtu = 0;
    bool physical = false;     // the device of a bus (PCI, virtio), not one that the kernel has made up
    bool up = false;           // set to up
    bool operational = false;  // has carrier, its queue works and, as a port of a bridge, it forwards
  };
  [[nodiscard]] Result<LinkInfo> link(const std::string& name) const;
  [[nodiscard]] Result<LinkInfo> link(unsigned ifindex) const;

  struct LinkChange {
    std::optional<bool> up;
    std::optional<unsigned> master;  // 0: no longer a port
    std::optional<unsigned> queue_length;
    std::optional<unsigned> mtu;
    std::optional<std::string> name;
    std::optional<MacAddress> mac;
  };
  [[nodiscard]] Status change_link(unsigned ifindex, const LinkChange& change) const;
  // A link that has been set up drops everything until the kernel has noticed the carrier in the background, which may
  // take a second. Waits for that.
  [[nodiscard]] Status wait_operational(unsigned ifindex, Nanoseconds bound) const;
  // Both ends down. The peer is created in `peer_netns`.
  [[nodiscard]] Status create_veth(const std::string& name, const std::string& peer, const MacAddress& peer_mac,
                                   int peer_netns, unsigned mtu = 0) const;
  // A bridge without STP and without multicast snooping (which would wait for reports before it forwards).
  [[nodiscard]] Status create_bridge(const std::string& name) const;
  // False: there was none.
  [[nodiscard]] Result<bool> delete_link(const std::string& name) const;

  // IPv6 addresses without duplicate address detection.
  [[nodiscard]] Status add_address(unsigned ifindex, const ServiceAddress& address) const;
  [[nodiscard]] Status add_default_route(unsigned ifindex, const ServiceAddress& gateway) const;

  // How the kernel would send to an address now.
  struct RouteInfo {
    unsigned ifindex = 0;
    std::optional<ServiceAddress> gateway;  // none: on the segment of the device. May be of another family
    ServiceAddress source;                  // of ours, that such packets have
    unsigned mtu = 0;                       // of the route or of the path, as far as known; 0: the device's
  };
  [[nodiscard]] Result<RouteInfo> route(const ServiceAddress& to) const;

  // One that any device has.
  [[nodiscard]] Result<bool> has_address(const ServiceAddress& address) const;

  struct NeighbourEntry {
    ServiceAddress address;
    MacAddress mac{};
  };
  // Reachable, so that it is used at once and checked later like a learnt one. Replaces what is there.
  [[nodiscard]] Status add_neighbour(unsigned ifindex, const NeighbourEntry& neighbour) const;
  // It will be asked for again. False: there was none.
  [[nodiscard]] Result<bool> delete_neighbour(unsigned ifindex, const ServiceAddress& address) const;
  // Entries with a MAC (not failed or incomplete ones, not multicast).
  [[nodiscard]] Result<std::vector<NeighbourEntry>> neighbours(unsigned ifindex) const;

  // The MAC of an address on the segment of a device; asks for it where it is not known, for `bound` at most.
  [[nodiscard]] Result<MacAddress> resolve_neighbour(unsigned ifindex, const ServiceAddress& address,
                                                     Nanoseconds bound) const;

  // A fixed entry of the bridge that `port` belongs to: frames for `mac` go there. Replaces a learnt one, and is not
  // moved by what the bridge learns later.
  [[nodiscard]] Status add_bridge_entry(unsigned port, const MacAddress& mac) const;
  // False: there was none.
  [[nodiscard]] Result<bool> delete_bridge_entry(unsigned port, const MacAddress& mac) const;

  // The BPF filters of clsact qdiscs, of every device.
  struct BpfFilter {
    unsigned ifindex = 0;
    bool egress = false;
    uint32_t handle = 0, priority = 0;
    uint32_t program = 0;  // its id
  };
  [[nodiscard]] Result<std::vector<BpfFilter>> bpf_filters() const;

 private:
  struct Free {
    void operator()(nl_sock* socket) const;
  };
  explicit Netlink(nl_sock* socket) : socket_(socket) {}

  std::unique_ptr<nl_sock, Free> socket_;
};

}  // namespace mose
