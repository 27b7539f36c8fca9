// SPDX-License-Identifier: MIT
#include "handover/workload_network.h"

#include <sys/socket.h>

#include <algorithm>

#include "base/rollback.h"
#include "handover/device_name.h"
#include "handover/hold_queue.h"
#include "handover/tap_holder.h"
#include "handover/uplink_steering.h"
#include "kernel/netlink.h"
#include "kernel/netns.h"

namespace mose::handover {
namespace {

constexpr const char* kInner = "eth0";
// The kernel looks at new carriers at most once a second.
constexpr Nanoseconds kLinkBound = std::chrono::seconds(3);

bool has_ipv6(const WorkloadNetworkConfig& config) {
  return std::any_of(config.addresses.begin(), config.addresses.end(),
                     [](const ServiceAddress& address) { return address.family == AF_INET6; });
}

Result<ServiceAddress> gateway_of(const std::string& text) {
  return parse_service_address(text + (text.find(':') == std::string::npos ? "/32" : "/128"));
}

// Before the link is up: a service that is not yet here must neither ask nor answer.
Status quiet_ipv6(const WorkloadNetworkConfig& config) {
  std::string base = std::string("ipv6/conf/") + kInner + "/";
  if (!has_ipv6(config)) {
    MOSE_TRY(set_net_sysctl(base + "disable_ipv6", "1"));
    return {};
  }
  for (auto [name, value] : {std::pair{"accept_dad", "0"},
                             {"dad_transmits", "0"},
                             {"accept_ra", "0"},
                             {"autoconf", "0"},
                             {"router_solicitations", "0"}}) {
    MOSE_TRY(set_net_sysctl(base + name, value));
  }
  return {};
}

// In the workload's namespace.
Status set_up_inside(const WorkloadNetworkConfig& config) {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto loopback, netlink.link("lo"));
  MOSE_TRY(netlink.change_link(loopback.ifindex, {.up = true}));
  MOSE_ASSIGN(auto inner, netlink.link(kInner));
  MOSE_TRY(quiet_ipv6(config));
  for (const ServiceAddress& address : config.addresses) MOSE_TRY(netlink.add_address(inner.ifindex, address));
  MOSE_TRY(netlink.change_link(inner.ifindex, {.up = true}));
  MOSE_TRY(netlink.wait_operational(inner.ifindex, kLinkBound));
  if (!config.gateway.empty()) {
    MOSE_ASSIGN(auto gateway, gateway_of(config.gateway));
    MOSE_TRY(netlink.add_default_route(inner.ifindex, gateway));
  }
  for (const Neighbour& neighbour : config.neighbours) {
    MOSE_TRY(netlink.add_neighbour(inner.ifindex, {neighbour.address, neighbour.mac}));
  }
  return {};
}

// In service again; what is held is drained first.
void open_again(SteerPolicy& policy) {
  const bool queued =
      policy.state == SteerState::hold || policy.state == SteerState::hold_new || policy.state == SteerState::drain;
  policy.state = queued ? SteerState::drain : SteerState::pass;
  policy.after_drain = SteerState::pass;
  policy.silent = false;
}

struct Uplink {
  unsigned ifindex = 0;
  MacAddress mac{};
};

Result<Uplink> find_uplink(const Netlink& netlink, const WorkloadNetworkConfig& config) {
  Uplink uplink;
  if (config.uplink.empty()) return uplink;
  MOSE_ASSIGN(auto link, netlink.link(config.uplink));
  uplink.ifindex = link.ifindex;
  uplink.mac = link.mac;
  return uplink;
}

}  // namespace

std::string host_device_name(const std::string& workload) {
  return device_name("mv", workload);
}

Result<WorkloadNetwork> WorkloadNetwork::create(const WorkloadNetworkConfig& config, int netns) {
  auto network = build(config, netns);
  if (!network) return context("network of " + config.workload, network.error());
  return network;
}

Result<WorkloadNetwork> WorkloadNetwork::build(const WorkloadNetworkConfig& config, int netns) {
  std::string host = host_device_name(config.workload);
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto bridge, netlink.link(config.bridge));
  MOSE_ASSIGN(auto uplink, find_uplink(netlink, config));

  Rollback rollback;
  MOSE_TRY(netlink.create_veth(host, kInner, config.mac, netns, config.mtu != 0 ? config.mtu : bridge.mtu));
  rollback.push([&] { (void)netlink.delete_link(host); });
  MOSE_ASSIGN(auto link, netlink.link(host));
  // The host end only carries the workload's frames; it must not send any of its own.
  MOSE_TRY(set_net_sysctl("ipv6/conf/" + host + "/disable_ipv6", "1"));
  MOSE_ASSIGN(Steering steering, Steering::attach({.workload = config.workload,
                                                   .addresses = config.addresses,
                                                   .mac = config.mac,
                                                   .host_ifindex = link.ifindex,
                                                   .uplink_ifindex = uplink.ifindex,
                                                   .uplink_mac = uplink.mac,
                                                   .bpffs = config.bpffs}));
  rollback.push([&] { (void)Steering::remove_pins(config.bpffs, config.workload); });

  // Everything is shut from here on, so links may come up.
  MOSE_TRY(netlink.change_link(link.ifindex, {.master = bridge.ifindex}));
  MOSE_TRY(netlink.change_link(link.ifindex, {.up = true}));
  MOSE_TRY(in_netns(netns, [&] { return set_up_inside(config); }));
  MOSE_TRY(netlink.wait_operational(link.ifindex, kLinkBound));
  MOSE_ASSIGN(Fd own, duplicate(netns));
  rollback.commit();
  WorkloadNetwork network(config, std::move(own), std::move(steering));
  network.host_ifindex_ = link.ifindex;
  network.uplink_ifindex_ = uplink.ifindex;
  network.uplink_mac_ = uplink.mac;
  return network;
}

Result<WorkloadNetwork> WorkloadNetwork::open_existing(const WorkloadNetworkConfig& config, int netns) {
  std::string where = "network of " + config.workload;
  MOSE_ASSIGN(auto netlink, Netlink::open());
  auto link = netlink.link(host_device_name(config.workload));
  if (!link) return context(where, link.error());
  auto steering = Steering::adopt(config.bpffs, config.workload);
  if (!steering) return context(where, steering.error());
  if (steering->config().host_ifindex != link->ifindex) {
    return fail(where + ": the pinned programs belong to a device that is gone");
  }
  MOSE_ASSIGN(Fd own, duplicate(netns));
  WorkloadNetwork network(config, std::move(own), std::move(*steering));
  network.host_ifindex_ = link->ifindex;
  network.uplink_ifindex_ = network.steering_.config().uplink_ifindex;
  network.uplink_mac_ = network.steering_.config().uplink_mac;
  return network;
}

Status WorkloadNetwork::destroy(const std::string& workload, const std::string& bpffs) {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  // What the uplink redirects comes to the programs here again, which are the last to go.
  Status erased = UplinkSteering::erase_workload(bpffs, workload);
  // Device first: while it exists the programs must stand in front of it.
  auto deleted = netlink.delete_link(host_device_name(workload));
  if (!deleted) return context("network of " + workload, deleted.error());
  MOSE_TRY(Steering::remove_pins(bpffs, workload));
  return erased;
}

Status WorkloadNetwork::open() {
  MOSE_TRY(open_egress());
  return open_ingress();
}

Status WorkloadNetwork::open_egress() {
  return change(Direction::egress, open_again);
}

Status WorkloadNetwork::open_ingress() {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_TRY(netlink.add_bridge_entry(host_ifindex_, config_.mac));
  return change(Direction::ingress, open_again);
}

Result<unsigned> WorkloadNetwork::mtu() const {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto link, netlink.link(host_device_name(config_.workload)));
  return link.mtu;
}

Result<std::vector<Neighbour>> WorkloadNetwork::neighbours() const {
  using List = std::vector<Neighbour>;
  return in_netns_get<List>(netns_.get(), [&]() -> Result<List> {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto inner, netlink.link(kInner));
    MOSE_ASSIGN(auto entries, netlink.neighbours(inner.ifindex));
    List list;
    for (const auto& entry : entries) list.push_back({entry.address, entry.mac});
    return list;
  });
}

Status WorkloadNetwork::add_neighbours(const std::vector<Neighbour>& neighbours) const {
  return in_netns(netns_.get(), [&]() -> Status {
    MOSE_ASSIGN(auto netlink, Netlink::open());
    MOSE_ASSIGN(auto inner, netlink.link(kInner));
    for (const Neighbour& neighbour : neighbours) {
      MOSE_TRY(netlink.add_neighbour(inner.ifindex, {neighbour.address, neighbour.mac}));
    }
    return {};
  });
}

Status WorkloadNetwork::hold_new(unsigned tap_ifindex, std::optional<Timestamp> deadline) {
  return hold_as(SteerState::hold_new, Direction::ingress, tap_ifindex, deadline);
}

Status WorkloadNetwork::hold(Direction direction, unsigned tap_ifindex) {
  MOSE_ASSIGN(SteerPolicy before, steering_.policy(direction));
  if (before.expired == SteerState::hold_new) {
    return fail("network of " + config_.workload + ": new connections were held for too long and have been let through again");
  }
  return hold_as(SteerState::hold, direction, tap_ifindex, {});
}

// The policy as it is but for what `into` says, and without a deadline, which belonged to the state before.
Status WorkloadNetwork::change(Direction direction, const std::function<void(SteerPolicy&)>& into) {
  MOSE_ASSIGN(SteerPolicy policy, steering_.policy(direction));
  policy.deadline.reset();
  into(policy);
  return steering_.set(direction, policy);
}

Status WorkloadNetwork::hold_as(SteerState state, Direction direction, unsigned tap_ifindex,
                                std::optional<Timestamp> deadline) {
  return change(direction, [&](SteerPolicy& policy) {
    policy.state = state;
    policy.deadline = deadline;
    policy.on_expiry = SteerState::pass;
    policy.tap_ifindex = tap_ifindex;
    policy.hold_packets_max = config_.hold_packets_max;
    policy.hold_bytes_max = config_.hold_bytes_max;
  });
}

Status WorkloadNetwork::shut(Direction direction, bool silent) { return steering_.shut(direction, silent); }

Status WorkloadNetwork::pass(Direction direction) {
  return change(direction, [](SteerPolicy& policy) {
    policy.state = SteerState::pass;
    policy.silent = false;
  });
}

Status WorkloadNetwork::drain_to_pass(Direction direction) {
  return change(direction, [](SteerPolicy& policy) {
    policy.state = SteerState::drain;
    policy.after_drain = SteerState::pass;
  });
}

// Shut first: a frame that came between the look at the queue and the end of the tap would wait for nobody, and all that
// comes behind it. In pass nothing can be queued, and a service at work is not cut.
Result<uint64_t> WorkloadNetwork::give_up_tap(Direction direction, const std::vector<std::string>& holder_files) {
  MOSE_ASSIGN(SteerPolicy before, steering_.policy(direction));
  if (before.state != SteerState::pass) MOSE_TRY(shut(direction, before.silent));
  const std::string tap = tap_device_name(direction, config_.workload);
  // By its name, which it loses with the tap.
  for (const std::string& file : holder_files) TapHolder::end_left_of(tap, file);
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_TRY(netlink.delete_link(tap));
  return steering_.write_off(direction);
}

Result<uint64_t> WorkloadNetwork::release(const std::vector<std::string>& holder_files) {
  uint64_t lost = 0;
  for (Direction direction : {Direction::ingress, Direction::egress}) {
    MOSE_ASSIGN(uint64_t frames, give_up_tap(direction, holder_files));
    lost += frames;
  }
  MOSE_TRY(open());
  for (Direction direction : {Direction::ingress, Direction::egress}) {
    MOSE_ASSIGN(SteerPolicy after, steering_.policy(direction));
    MOSE_ASSIGN(uint64_t left, steering_.queued_now(direction));
    if (after.state == SteerState::pass && !after.silent && left == 0) continue;
    return fail("network of " + config_.workload + ": " + to_string(direction) + " was opened and is " + to_string(after.state) +
                " all the same, " + std::to_string(left) + " frames wait: somebody else sets it");
  }
  return lost;
}

Status WorkloadNetwork::drain_to_peer(const PeerPath& peer) {
  if (uplink_ifindex_ == 0) return fail("network of " + config_.workload + ": no uplink to redirect to");
  MOSE_ASSIGN(auto taken, steering_.taken_from());
  // Back to where it came from: what would still come from there must not be sent round for ever.
  if (taken && peer.tunnel && taken->remote == peer.tunnel->remote) MOSE_TRY(steering_.take_from({}));
  const bool silent = !peer.tunnel;
  MOSE_TRY(shut(Direction::egress, silent));
  return change(Direction::ingress, [&](SteerPolicy& policy) {
    policy.state = SteerState::drain;
    policy.after_drain = SteerState::redirect;
    policy.silent = silent;
    policy.peer_ifindex = uplink_ifindex_;
    policy.peer_mac = peer.mac;
    policy.own_mac = uplink_mac_;
    policy.tunnel = peer.tunnel;
  });
}

}  // namespace mose::handover
