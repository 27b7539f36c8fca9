// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "handover/steering.h"
#include "kernel/bpf_object.h"
#include "model/workload.h"

// Redirection at XDP on the node's uplink, for all services of the node: the frames of one that has moved away go to
// its peer before the kernel has made packets of them, those that a peer has redirected to us get the service's MAC. It
// is the first line only: nothing is held here, so that Steering decides until its queue is empty, and stays behind
// this for frames that reach a workload from elsewhere. An address without an entry is not touched.
//
// Life: attach() once per node, put() and erase() as services come and go, remove(). Program and entries are pinned
// under <bpffs>/mose/uplink:<device>/ (no workload's name has a colon), so that an agent that dies leaves them working;
// adopt() finds them again. The destructor only closes descriptors. Calls of one node come one at a time: its caller
// locks.
namespace mose::handover {

// Addresses at one time, unless configured otherwise, and the most that can be configured. Each that has an entry takes
// 200 bytes and 144 for its counters on every CPU; one that could have, 32 bytes.
inline constexpr uint32_t kUplinkEntries = 4096;
inline constexpr uint32_t kUplinkEntriesMax = 1u << 20;

enum class UplinkState : uint8_t { local = 1, redirect = 2 };
[[nodiscard]] const char* to_string(UplinkState state);
[[nodiscard]] const char* to_string(bpf::XdpMode mode);

struct UplinkEntry {
  UplinkState state = UplinkState::local;
  std::string workload;
  MacAddress service_mac{};
  // Redirect only.
  unsigned peer_ifindex = 0;  // device that frames leave by
  MacAddress peer_mac{};      // of the peer's uplink, with a tunnel of the next hop
  MacAddress own_mac{};       // of ours
  std::optional<Tunnel> tunnel;

  bool operator==(const UplinkEntry&) const = default;
};

struct UplinkSteeringConfig {
  std::string device;
  unsigned ifindex = 0;
  MacAddress mac{};  // of the device
  bpf::XdpMode mode = bpf::XdpMode::native;
  uint32_t entries_max = kUplinkEntries;  // 1 to kUplinkEntriesMax
  std::string bpffs = "/sys/fs/bpf";

  bool operator==(const UplinkSteeringConfig&) const = default;
};

class UplinkSteering {
 public:
  // In the node's network namespace. Loads, attaches and pins; on failure nothing is left. Refuses when the device has
  // another XDP program or none of this mode, and when pins of it exist. Some drivers reset their queues: never beside
  // a migration.
  [[nodiscard]] static Result<UplinkSteering> attach(const UplinkSteeringConfig& config);
  // What attach() has pinned. Fails when anything is missing, of another version, or no longer on the device.
  [[nodiscard]] static Result<UplinkSteering> adopt(const std::string& bpffs, const std::string& device);
  // Another build's or another configuration's, pinned for the same device and mode, becomes what `config` says: the entries
  // are carried over and the program on the device is replaced in one step, so that every frame meets the one or the
  // other. True: it was; false: it is so already. On failure the old one goes on. As adopt() otherwise; at the agent's
  // start, when nobody puts entries.
  [[nodiscard]] static Result<bool> renew(const UplinkSteeringConfig& config);
  // Detaches and unpins whatever there is of this device; nothing to remove is fine.
  [[nodiscard]] static Status remove_pins(const std::string& bpffs, const std::string& device);
  // The devices of which there are pins.
  [[nodiscard]] static std::vector<std::string> pinned_devices(const std::string& bpffs);
  // Every entry of a workload, on whatever uplink of this node; none is fine. Any thread.
  [[nodiscard]] static Status erase_workload(const std::string& bpffs, const std::string& workload);

  UplinkSteering(UplinkSteering&&) noexcept;
  UplinkSteering& operator=(UplinkSteering&&) noexcept;
  UplinkSteering(const UplinkSteering&) = delete;
  UplinkSteering& operator=(const UplinkSteering&) = delete;
  ~UplinkSteering();

  // From its return on every frame meets the entry. A new address begins with counters of zero, one that is there keeps
  // them. Fails when all entries are taken, and for a redirection without a device or a MAC.
  [[nodiscard]] Status put(const ServiceAddress& address, const UplinkEntry& entry);
  [[nodiscard]] Status erase(const ServiceAddress& address);  // none is fine
  [[nodiscard]] Result<std::optional<UplinkEntry>> entry(const ServiceAddress& address) const;
  struct Item {
    ServiceAddress address;
    UplinkEntry entry;
  };
  [[nodiscard]] Result<std::vector<Item>> entries() const;
  // Of the frames for one address since it got an entry; none: zero.
  [[nodiscard]] Result<SteerCounters> counters(const ServiceAddress& address) const;
  // Of the frames for no service.
  [[nodiscard]] Result<SteerCounters> other_counters() const;

  // False: the device is gone, or somebody has detached the program.
  [[nodiscard]] bool attached() const;
  [[nodiscard]] const UplinkSteeringConfig& config() const { return config_; }
  // Detaches and unpins. The object is empty afterwards, whatever the result.
  [[nodiscard]] Status remove();

 private:
  struct Kernel;  // descriptors
  UplinkSteering(UplinkSteeringConfig config, std::unique_ptr<Kernel> kernel);

  UplinkSteeringConfig config_;
  std::unique_ptr<Kernel> kernel_;
};

}  // namespace mose::handover
