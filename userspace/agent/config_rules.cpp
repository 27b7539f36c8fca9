// SPDX-License-Identifier: MIT
// What each value alone does not show: values that are well-formed and could never work.
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>

#include "agent/config.h"
#include "kernel/cgroup.h"

namespace mose::agent {
namespace {

constexpr size_t kDeviceNameMax = 15;  // IFNAMSIZ with its end

std::string without_last_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

Status check_device(const char* key, const std::string& name) {
  if (name.empty()) return {};
  bool odd = name == "." || name == ".." || std::any_of(name.begin(), name.end(), [](unsigned char c) {
               return c == '/' || c == ':' || c <= ' ' || c == 0x7f;
             });
  if (!odd && name.size() <= kDeviceNameMax) return {};
  return fail(
      fmt::format("{} = \"{}\" is not the name of a network device: at most {} characters without '/', ':' and blanks",
                  key, name, kDeviceNameMax));
}

// All of a group is frozen and killed: it must be one that only the agent has.
Status check_cgroup(const NodeConfig& node) {
  auto mount = cgroup_mount();
  std::string cgroup = without_last_slashes(node.cgroup);
  if (cgroup != "/" && (!mount || cgroup != *mount)) return {};
  return fail(fmt::format("node.cgroup = \"{}\" is the root of all processes: name a group below it, such as {}/mose",
                          node.cgroup, mount ? *mount : "/sys/fs/cgroup"));
}

struct Endpoint {
  ServiceAddress address;
  unsigned long port = 0;
  bool operator==(const Endpoint& other) const {
    return port == other.port && address.family == other.address.family && address.bytes == other.address.bytes;
  }
  [[nodiscard]] bool wildcard() const {
    return std::all_of(address.bytes.begin(), address.bytes.end(), [](auto byte) { return byte == 0; });
  }
  [[nodiscard]] bool loopback() const {
    if (address.family == AF_INET) return address.bytes[0] == 127;
    return address.bytes.back() == 1 && std::all_of(address.bytes.begin(), address.bytes.end() - 1, [](auto byte) { return byte == 0; });
  }
};

// Of a text that check_endpoint() has taken.
Result<Endpoint> endpoint_of(const std::string& text) {
  Endpoint endpoint;
  MOSE_ASSIGN(endpoint.address, peer_data_address({.address = text, .data_address = {}}));
  endpoint.port = std::strtoul(text.c_str() + text.rfind(':') + 1, nullptr, 10);
  return endpoint;
}

Status check_peers(const Config& config) {
  MOSE_ASSIGN(Endpoint own, endpoint_of(config.node.listen));
  std::vector<std::pair<std::string, Endpoint>> seen;
  for (const auto& [name, peer] : config.peers) {
    MOSE_ASSIGN(Endpoint endpoint, endpoint_of(peer.address));
    std::string key = fmt::format("peers.{}.address = \"{}\"", name, peer.address);
    if (endpoint.wildcard()) return fail(key + " is no address that can be connected to: give the one of that node");
    if (endpoint == own) return fail(key + " is where this node itself listens (node.listen)");
    for (const auto& [other, its] : seen) {
      if (its == endpoint)
        return fail(fmt::format("{} is that of peers.{} as well: one node has one name", key, other));
    }
    seen.emplace_back(name, endpoint);
  }
  return {};
}

// Half a set of certificates is a mistake wherever it stands, and so are certificates that plain_text would ignore.
Status check_tls(const TlsConfig& tls) {
  const std::pair<const char*, const std::string*> files[] = {{"certificate", &tls.certificate}, {"key", &tls.key}, {"authorities", &tls.authorities}};
  const auto given = std::ranges::count_if(files, [](const auto& file) { return !file.second->empty(); });
  for (const auto& [name, path] : files) {
    if (given > 0 && path->empty()) return fail(fmt::format("tls.{} is missing: certificate, key and authorities belong together", name));
    if (given > 0 && path->front() != '/') return fail(fmt::format("tls.{} = \"{}\" is not an absolute path", name, *path));
  }
  if (!tls.revoked.empty() && given == 0) return fail("tls.revoked says nothing without certificates: certificate, key and authorities are missing");
  if (!tls.revoked.empty() && tls.revoked.front() != '/') return fail(fmt::format("tls.revoked = \"{}\" is not an absolute path", tls.revoked));
  if (given > 0 && tls.plain_text) return fail("tls.plain_text = true and certificates: take one of them away");
  return {};
}

// Names of workloads and what they do, in plain text and for whoever asks: for this machine only.
Status check_metrics(const Config& config) {
  const MetricsConfig& metrics = config.metrics;
  if (metrics.socket == config.control.socket) return fail(fmt::format("metrics.socket and control.socket are both \"{}\": give each its own", metrics.socket));
  if (metrics.listen.empty()) return {};
  MOSE_ASSIGN(Endpoint endpoint, endpoint_of(metrics.listen));
  if (endpoint.loopback()) return {};
  return fail(fmt::format("metrics.listen = \"{}\" can be reached from other machines, where nobody is asked who he is: take an address of this "
                          "machine alone, such as 127.0.0.1:9477, and let a proxy that knows its readers, or an agent of the monitoring, pass it on",
                          metrics.listen));
}

}  // namespace

Status check_transport(const Config& config) {
  if (config.tls.plain_text || !config.tls.certificate.empty()) return {};
  return fail(
      fmt::format("other nodes can neither be known nor know this one: make certificates with `mose pki init` and `mose pki issue {}`, and name them "
                  "in [tls] (certificate, key, authorities); or set plain_text = true there, where everybody who reaches the nodes' network, "
                  "workloads among them, is trusted",
                  config.node.name));
}

Status check_rules(const Config& config) {
  MOSE_TRY(check_cgroup(config.node));
  MOSE_TRY(check_device("node.uplink", config.node.uplink));
  MOSE_TRY(check_device("node.bridge", config.node.bridge));
  // One survives a reboot, of the other everything is removed.
  if (without_last_slashes(config.node.runtime_dir) == without_last_slashes(config.node.state_dir)) {
    return fail(
        fmt::format("node.runtime_dir and node.state_dir are both \"{}\": give each its own", config.node.state_dir));
  }
  MOSE_TRY(check_tls(config.tls));
  MOSE_TRY(check_metrics(config));
  return check_peers(config);
}

}  // namespace mose::agent
