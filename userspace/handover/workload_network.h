// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "handover/steering.h"
#include "model/workload.h"

// The network of one workload on one node: a veth pair between its network namespace (eth0, with the service's MAC and
// addresses) and the node's bridge, with the steering programs on the host end.
//
// Life: create() -> silent: everything is built, up and shut, no frame leaves or enters; open() -> in service;
// hold, drain and redirect through steering(); destroy(). An agent that restarts calls open_existing(). Destroying the
// object changes nothing on the host.
//
// All calls run in the caller's thread, whose network namespace is the node's; work in the workload's namespace is done
// by a short-lived thread that enters it. Namespaces are borrowed descriptors.
namespace mose::handover {

struct Neighbour {
  ServiceAddress address;  // the prefix does not matter
  MacAddress mac{};

  bool operator==(const Neighbour&) const = default;
};

struct WorkloadNetworkConfig {
  std::string workload;
  std::vector<ServiceAddress> addresses;
  MacAddress mac{};
  std::string gateway;  // empty: none. Without a prefix
  std::string bridge;
  std::string uplink;                 // port of the bridge; empty: none
  std::vector<Neighbour> neighbours;  // put into the namespace as reachable, so that the first answer needs no ARP
  std::string bpffs = "/sys/fs/bpf";
  unsigned mtu = 0;                             // of its device; 0: the bridge's
  uint64_t hold_packets_max = kHoldPacketsMax;  // of hold() and hold_new(), each direction for itself
  uint64_t hold_bytes_max = kHoldBytesMax;
};

// Name of the host end of a workload's device: "mv" and eight hex digits that follow from the name.
[[nodiscard]] std::string host_device_name(const std::string& workload);

class WorkloadNetwork {
 public:
  // In `netns` (empty but for its loopback). On failure nothing is left.
  [[nodiscard]] static Result<WorkloadNetwork> create(const WorkloadNetworkConfig& config, int netns);
  // Finds the host end and the pinned programs again. `netns` as in create.
  [[nodiscard]] static Result<WorkloadNetwork> open_existing(const WorkloadNetworkConfig& config, int netns);
  // Removes device, programs, pins and uplink entries of a workload by name; nothing to remove is fine. (Taps go with
  // their queues.)
  [[nodiscard]] static Status destroy(const std::string& workload, const std::string& bpffs);

  // In service: the bridge told that the service is here, nothing silent, ingress passes. A held egress goes to drain
  // (the caller pumps), else it passes. Repeating it is harmless.
  [[nodiscard]] Status open();
  // The halves of it: with ingress alone the service hears, and is not heard on the segment yet.
  [[nodiscard]] Status open_ingress();
  [[nodiscard]] Status open_egress();

  [[nodiscard]] Steering& steering() { return steering_; }
  [[nodiscard]] const Steering& steering() const { return steering_; }
  [[nodiscard]] unsigned host_ifindex() const { return host_ifindex_; }
  // Of its device: as long as a packet of the workload can be.
  [[nodiscard]] Result<unsigned> mtu() const;
  [[nodiscard]] unsigned uplink_ifindex() const { return uplink_ifindex_; }  // 0: none
  [[nodiscard]] const MacAddress& uplink_mac() const { return uplink_mac_; }
  // The workload's neighbour table (entries with an address only), for PREPARE.
  [[nodiscard]] Result<std::vector<Neighbour>> neighbours() const;
  [[nodiscard]] Status add_neighbours(const std::vector<Neighbour>& neighbours) const;

  // The policies of a migration. `tap_ifindex`: HoldQueue::tap_ifindex(). What is silent stays so.
  // Only what opens a TCP connection is held, so that listen queues run dry while established connections go on; hold()
  // and drain_*() follow, with the same tap: held requests leave first, in the order of their arrival.
  // At `deadline` the programs let them through again, for an agent that has died; hold() then fails.
  [[nodiscard]] Status hold_new(unsigned tap_ifindex, std::optional<Timestamp> deadline = {});
  [[nodiscard]] Status hold(Direction direction, unsigned tap_ifindex);
  [[nodiscard]] Status shut(Direction direction, bool silent);
  [[nodiscard]] Status pass(Direction direction);
  // From hold: drain, then pass. The caller pumps.
  [[nodiscard]] Status drain_to_pass(Direction direction);
  // Back in service from whatever state, for an operator, when no migration is left that would do it: on success both
  // directions pass, nothing waits, and there is no tap. What was in one had nobody who would put it back and is lost with
  // it: how many frames. `holder_files`: where processes may be named that keep taps; those that keep ours end. On failure
  // what held or drained is shut, and release() can be called again.
  [[nodiscard]] Result<uint64_t> release(const std::vector<std::string>& holder_files = {});
  // After the commit: egress shut, ingress drains, then redirects to the peer. The caller pumps. ARP and neighbour
  // discovery are no longer answered, unless the peer is on another segment: then nobody else does it here.
  [[nodiscard]] Status drain_to_peer(const PeerPath& peer);

 private:
  [[nodiscard]] Status change(Direction direction, const std::function<void(SteerPolicy&)>& into);
  [[nodiscard]] Result<uint64_t> give_up_tap(Direction direction, const std::vector<std::string>& holder_files);
  [[nodiscard]] Status hold_as(SteerState state, Direction direction, unsigned tap_ifindex, std::optional<Timestamp> deadline);
  [[nodiscard]] static Result<WorkloadNetwork> build(const WorkloadNetworkConfig& config, int netns);
  WorkloadNetwork(WorkloadNetworkConfig config, Fd netns, Steering steering)
      : config_(std::move(config)), netns_(std::move(netns)), steering_(std::move(steering)) {}

  WorkloadNetworkConfig config_;
  Fd netns_;  // our duplicate
  Steering steering_;
  unsigned host_ifindex_ = 0;
  unsigned uplink_ifindex_ = 0;
  MacAddress uplink_mac_{};
};

// Who answers for `address` on the segment of `device` (bridge or uplink, caller's namespace): the MACs, without
// duplicates. Sends two probes (ARP with sender 0.0.0.0, or neighbour solicitations from ::) and waits `bound` in all.
// Preflight of a destination allows exactly the workload's own MAC.
inline constexpr Nanoseconds kProbeBound = std::chrono::milliseconds(150);
[[nodiscard]] Result<std::vector<MacAddress>> probe_address(const std::string& device, const ServiceAddress& address,
                                                            Nanoseconds bound = kProbeBound);

}  // namespace mose::handover
