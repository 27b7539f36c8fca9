// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "agent/config.h"
#include "handover/workload_network.h"
#include "model/migration.h"
#include "model/workload.h"

// Names that both ends of a migration, and an agent after a restart, must agree on.
namespace mose::agent {

struct MigrationPaths {
  std::string dir;           // <runtime_dir>/migrations/ID, 0700
  std::string images;        // CRIU's images and logs
  std::string switchover_images;  // beside those of a standby
  std::string pager_socket;
  std::string pager_log;
  std::string claim;         // destination: exists once what is in the workload's cgroup is this migration's
  std::string ingress_holder, egress_holder;  // who keeps the queues of held packets
};
[[nodiscard]] MigrationPaths migration_paths(const Config& config, const MigrationId& id);

// Of every migration that has left something, ended or not: where a process may be named that keeps held packets.
[[nodiscard]] std::vector<std::string> holder_files(const Config& config);

[[nodiscard]] handover::WorkloadNetworkConfig network_config(const Config& config, const WorkloadSpec& spec);

// Fails where this node's configuration has none: neither end of a move can do without.
[[nodiscard]] Status require_uplink(const Config& config);
// How what is still addressed to this node after `workload` has gone to `peer` will get there; fails where it cannot.
[[nodiscard]] Result<handover::PeerPath> path_to_peer(const Config& config, const std::string& workload,
                                                      const std::string& peer);

// A mount of the workload that CRIU treats as external: its mount point inside, its name in the images, its directory on
// this node. All declared mounts and the log.
struct ExternalMount {
  std::string target, key, source;
  bool read_only = false;
};
[[nodiscard]] std::vector<ExternalMount> external_mounts(const Config& config, const WorkloadSpec& spec);

}  // namespace mose::agent
