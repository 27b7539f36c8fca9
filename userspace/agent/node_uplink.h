// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "agent/config.h"
#include "base/result.h"
#include "handover/uplink_steering.h"
#include "model/workload.h"

namespace mose::agent {

// The node's uplink at XDP, if it is there: which services have moved away, which are here. Where it is not, or an
// entry cannot be put, TC redirects alone, as it always stands behind.
//
// Life: start() once, then all calls from any thread. What stands in the kernel outlives the agent; reconcile() makes
// it right again after a restart.
class NodeUplink {
 public:
  explicit NodeUplink(const Config& config) : config_(config) {}

  // Attaches, or finds what an agent before us has attached; removes that where node.steer says so. Fails only when
  // node.steer demands XDP and it cannot be had.
  [[nodiscard]] Status start();
  // Before a migration: attached again, should it have been released or lost. As start().
  [[nodiscard]] Status ready();
  // The reason why stragglers cannot be redirected at XDP here. (Released by clean_up(): they can.)
  [[nodiscard]] Status usable() const;

  // A workload that has arrived: what peers redirect to us becomes its. No program at XDP is no failure.
  [[nodiscard]] Status arrived(const WorkloadSpec& spec);
  // Before TC redirects one that leaves: only TC sees that the peer sends back what is redirected to it, by the address
  // that a frame no longer has when XDP has taken it.
  [[nodiscard]] Status leaves(const WorkloadSpec& spec);
  // One that has left, after its held packets have been redirected: what comes in for it goes to the peer. False: there
  // is no program at XDP.
  [[nodiscard]] Result<bool> redirect(const WorkloadSpec& spec, const handover::PeerPath& peer);
  // Frames redirected so since the entries were made.
  [[nodiscard]] uint64_t redirected(const WorkloadSpec& spec) const;

  // After a restart: `here` have their entries, workloads of which `leaving` says so keep theirs, others lose them.
  void reconcile(const std::vector<WorkloadSpec>& here, const std::function<bool(const std::string&)>& leaving);
  // Detaches where no service has an entry, ours and what other configurations have left; a line for each.
  [[nodiscard]] std::vector<std::string> clean_up();

  struct View {
    std::string device, mode;  // "native"
    handover::UplinkEntry entry;
    handover::SteerCounters counters;
  };
  // For an address that has an entry.
  [[nodiscard]] std::optional<View> view(const ServiceAddress& address) const;

 private:
  [[nodiscard]] Status make();  // the lock is held
  [[nodiscard]] Status attach(bpf::XdpMode mode);
  [[nodiscard]] Status put_all(const WorkloadSpec& spec, const handover::UplinkEntry& entry);

  const Config& config_;
  mutable std::mutex mutex_;  // guards all below; entries are given slots by one at a time
  std::optional<handover::UplinkSteering> steering_;
  std::string reason_ = "it has not been tried yet";  // why there is none
  bool released_ = false;                             // by clean_up(): there can be one again
};

// Where pins go: what node.bpffs says without a last "/mose", which the programs add themselves.
[[nodiscard]] std::string pin_root(const Config& config);

}  // namespace mose::agent
