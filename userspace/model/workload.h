// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace mose {

using MacAddress = std::array<uint8_t, 6>;
[[nodiscard]] std::string format_mac(const MacAddress& mac);
[[nodiscard]] Result<MacAddress> parse_mac(std::string_view text);

// An IP address with the prefix length of its segment, "10.9.0.10/24" or "2001:db8::10/64".
struct ServiceAddress {
  int family = 0;                    // AF_INET or AF_INET6
  std::array<uint8_t, 16> bytes{};   // network order; IPv4 in the first four bytes
  unsigned prefix = 0;

  bool operator==(const ServiceAddress&) const = default;
};
[[nodiscard]] Result<ServiceAddress> parse_service_address(std::string_view text);
[[nodiscard]] std::string format_address(const ServiceAddress& address);        // without the prefix
[[nodiscard]] std::string format_with_prefix(const ServiceAddress& address);
// A locally administered MAC address that follows from the address alone, so that it is the same on every node.
[[nodiscard]] MacAddress mac_for(const ServiceAddress& address);

// How the contents of a mount get to the destination. MOSE moves memory, not disks.
enum class MountMode : uint8_t {
  identical,  // same content on both nodes, checked for open and mapped files
  shared,     // a network file system
  copy,       // synchronised by the agents before the restore
};
[[nodiscard]] Result<MountMode> parse_mount_mode(std::string_view text);
[[nodiscard]] std::string_view to_string(MountMode mode);

// One declared mount, "--mount SOURCE:TARGET:MODE[:ro]". SOURCE lies on the node, TARGET in the workload.
struct WorkloadMount {
  std::string source;
  std::string target;
  MountMode mode = MountMode::identical;
  bool read_only = false;

  bool operator==(const WorkloadMount&) const = default;
};
[[nodiscard]] Result<WorkloadMount> parse_mount(std::string_view text);

// What an operator declares of a workload. The same on both nodes; travels in PREPARE.
struct WorkloadSpec {
  std::string name;                        // [a-z0-9][a-z0-9-]{0,30}
  std::vector<ServiceAddress> addresses;   // at least one
  MacAddress mac{};
  std::string gateway;                     // next hop for other segments, may be empty
  std::string root = "/";                  // becomes the workload's read-only root
  std::vector<WorkloadMount> mounts;
  std::vector<std::string> command;        // argv; empty for a workload that others started
  std::vector<std::string> environment;    // NAME=VALUE

  bool operator==(const WorkloadSpec&) const = default;
};
// Name, distinct addresses that a host can have, absolute and distinct paths; the first violated rule is the error.
[[nodiscard]] Status validate(const WorkloadSpec& spec);

}  // namespace mose
