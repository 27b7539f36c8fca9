// SPDX-License-Identifier: MIT
#include "agent/migration_paths.h"

#include <filesystem>

#include "agent/node_uplink.h"
#include "agent/workloads.h"

namespace mose::agent {
namespace {

constexpr const char* kIngressHolder = "/ingress.holder";
constexpr const char* kEgressHolder = "/egress.holder";

std::string migrations_dir(const Config& config) {
  return config.node.runtime_dir + "/migrations";
}

}  // namespace

MigrationPaths migration_paths(const Config& config, const MigrationId& id) {
  MigrationPaths paths;
  paths.dir = migrations_dir(config) + "/" + id.hex();
  paths.images = paths.dir + "/images";
  paths.switchover_images = paths.dir + "/switchover";
  paths.pager_socket = paths.dir + "/pager.sock";
  paths.pager_log = paths.dir + "/pager.log";
  paths.claim = paths.dir + "/claim";
  paths.ingress_holder = paths.dir + kIngressHolder;
  paths.egress_holder = paths.dir + kEgressHolder;
  return paths;
}

std::vector<std::string> holder_files(const Config& config) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& item : std::filesystem::directory_iterator(migrations_dir(config), error)) {
    for (const char* name : {kIngressHolder, kEgressHolder}) files.push_back(item.path().string() + name);
  }
  return files;
}

handover::WorkloadNetworkConfig network_config(const Config& config, const WorkloadSpec& spec) {
  handover::WorkloadNetworkConfig out;
  out.workload = spec.name;
  out.addresses = spec.addresses;
  out.mac = spec.mac;
  out.gateway = spec.gateway;
  out.bridge = config.node.bridge;
  out.uplink = config.node.uplink;
  out.hold_packets_max = config.limits.hold_packets_max;
  out.hold_bytes_max = config.limits.hold_bytes_max;
  out.bpffs = pin_root(config);
  return out;
}

Status require_uplink(const Config& config) {
  if (!config.node.uplink.empty()) return {};
  return fail("node " + config.node.name + " has no uplink by which packets could be redirected: set node.uplink, a port of the bridge");
}

Result<handover::PeerPath> path_to_peer(const Config& config, const std::string& workload, const std::string& peer) {
  MOSE_TRY(require_uplink(config));
  const PeerConfig& known = config.peers.at(peer);
  MOSE_ASSIGN(ServiceAddress address, peer_data_address(known));
  return handover::find_peer_path({.uplink = config.node.uplink,
                                   .peer = address,
                                   .by_uplink = !known.data_address.empty(),
                                   .device = handover::host_device_name(workload),
                                   .port = static_cast<uint16_t>(config.node.vxlan_port)});
}

std::vector<ExternalMount> external_mounts(const Config& config, const WorkloadSpec& spec) {
  std::vector<ExternalMount> out;
  for (size_t i = 0; i < spec.mounts.size(); ++i) {
    const WorkloadMount& mount = spec.mounts[i];
    out.push_back({mount.target, "mose-mount-" + std::to_string(i), mount.source, mount.read_only});
  }
  out.push_back({kWorkloadLogTarget, "mose-log", workload_paths(config, spec.name).log_dir, false});
  return out;
}

}  // namespace mose::agent
