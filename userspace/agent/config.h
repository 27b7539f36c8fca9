// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "base/result.h"
#include "handover/steering.h"
#include "handover/uplink_steering.h"
#include "model/node_roles.h"

// The agent's configuration: /etc/mose/mose.toml, then /etc/mose/conf.d/*.toml in the order of their names, or the one
// file of --config (and the conf.d beside it). A later file overrides single keys. An unknown key or a wrong type is an
// error with file:line, never a warning: a misspelt limit must not silently be the default.
namespace mose::agent {

// Where frames of moved services are redirected. TC is there in any case; XDP on the uplink comes before it.
enum class SteerMode : uint8_t {
  automatic,    // native XDP where the uplink is a physical device that has it, else TC alone
  tc,
  xdp,          // native, or the agent does not start
  xdp_generic,  // on packets, for drivers without XDP: no faster than TC
};
[[nodiscard]] const char* to_string(SteerMode mode);

struct NodeConfig {
  std::string name;                         // default: the host name up to the first dot
  std::string listen = "0.0.0.0:7946";      // where peers connect to: a numeric address and a port
  std::string uplink;                       // device that leads to the other nodes, a port of `bridge`
  std::string bridge;                       // workloads' host ends become ports of it
  std::string cgroup;                       // parent of the workloads' cgroups; default: "mose" below cgroup v2
  std::string state_dir = "/var/lib/mose";  // survives a reboot: journals, workloads, history
  std::string runtime_dir = "/run/mose";    // tmpfs: sockets, images, namespaces
  std::string libexec;                      // helpers; becomes MOSE_LIBEXEC (kernel/spawn.h: helper_path)
  std::string criu;                         // default: MOSE_PREFIX or /opt/mose, criu/bin/criu
  std::string workloads_dir = "/etc/mose/workloads.d";
  std::string bpffs = "/sys/fs/bpf";  // pins go below its directory mose/
  SteerMode steer = SteerMode::automatic;
  uint32_t vxlan_port = handover::kTunnelPort;  // UDP, where a peer behind a router is sent stragglers to
};

struct ControlConfig {
  std::string socket;  // default: runtime_dir/mosed.sock
  std::string group;   // its members may connect too; empty: root only
};

struct LimitsConfig {
  uint64_t images_bytes_max = 256ull << 20;  // CRIU images of one migration, in runtime_dir
  uint64_t store_bytes_max = 0;              // page store of one migration; 0: what memory there is
  uint64_t bandwidth_max = 0;                // bits per second of pages that leave, where `migrate` names none; 0: unlimited
  // Held of one direction of a workload at one time; what comes beyond it is dropped and counted.
  uint32_t hold_packets_max = handover::kHoldPacketsMax;
  uint64_t hold_bytes_max = handover::kHoldBytesMax;
  uint32_t xdp_services_max = handover::kUplinkEntries;  // addresses that the uplink's XDP program knows at one time
  uint32_t migrations_max = 4;                           // under way at once, both roles
  uint32_t connections_max = 64;                         // control connections
  uint32_t history_max = 200;                            // finished migrations that are remembered
  Nanoseconds dump_time_max = std::chrono::seconds(10);  // CRIU has no time-out of its own
  Nanoseconds restore_time_max = std::chrono::seconds(10);  // the same at the destination; the workload stands still there and here
  Nanoseconds stop_grace = std::chrono::seconds(10);     // SIGTERM to SIGKILL in `mose stop`
  Nanoseconds peer_connect_max = std::chrono::seconds(3);
};

// How other nodes are spoken to: by certificates, or in plain text where that is said.
struct TlsConfig {
  std::string certificate;  // of this node, PEM; its name must be node.name
  std::string key;          // readable by root only
  std::string authorities;  // whose certificates are believed
  std::string revoked;      // those of them that are not: X.509 lists (mose pki revoke); empty: all are
  bool plain_text = false;  // no encryption, and nodes are believed by their names
};

// Figures for Prometheus, and whether the agent is ready; whoever can connect reads them.
struct MetricsConfig {
  bool enabled = true;
  std::string socket;  // for root; default: runtime_dir/metrics.sock
  std::string listen;  // for everybody of this machine: a loopback address with its port; empty: not by TCP
};

struct PeerConfig {
  std::string address;  // numeric, with the port: names are not resolved
  // Numeric, without a port: on its uplink, where redirected packets go. Empty: that of `address`.
  std::string data_address;
  NodeRoles roles;  // narrows what its certificate says
};

struct Config {
  NodeConfig node;
  ControlConfig control;
  TlsConfig tls;
  MetricsConfig metrics;
  LimitsConfig limits;
  log::Level log_level = log::Level::info;
  std::map<std::string, PeerConfig> peers;  // by node name
  std::vector<std::string> files;           // read, in order
};

// Where packets for what has moved there go, with the prefix of a single address.
[[nodiscard]] Result<ServiceAddress> peer_data_address(const PeerConfig& peer);

inline constexpr const char* kConfigDefaultPath = "/etc/mose/mose.toml";

// `path` must exist when it is given (`required`); the default one need not. Defaults are filled in.
[[nodiscard]] Result<Config> load_config(const std::string& path, bool required);
// One text as if it were a file called `name`; for tests. No defaults that depend on the host are filled in.
[[nodiscard]] Status merge_config(Config& config, const std::string& text, const std::string& name);
// Defaults that depend on the host or on other keys; rules that span keys (names, absolute paths).
[[nodiscard]] Status complete_config(Config& config);
// Of a complete one: values that are well-formed and could never work. complete_config() ends with it.
[[nodiscard]] Status check_rules(const Config& config);
// Whether other nodes can be spoken to: certificates or plain_text. For who does so, not for who only reads the file.
[[nodiscard]] Status check_transport(const Config& config);
// Every key with its value as TOML, for `mose config check`.
[[nodiscard]] std::string format_config(const Config& config);

}  // namespace mose::agent
