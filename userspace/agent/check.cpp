// SPDX-License-Identifier: MIT
#include "agent/check.h"

#include <fmt/format.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <ctime>
#include <mutex>
#include <optional>

#include "agent/host_calibration.h"
#include "agent/node_uplink.h"
#include "agent/peer_access.h"
#include "handover/steering.h"
#include "handover/uplink_steering.h"
#include "kernel/cgroup.h"
#include "kernel/inspect.h"
#include "kernel/netlink.h"
#include "kernel/probe.h"
#include "kernel/xdp_features.h"
#include "mose/control/control.pb.h"
#include "restore/canary.h"
#include "restore/criu_setup.h"

namespace mose::agent {
namespace {

constexpr long kTmpfsMagic = 0x01021994;

void add(control::v1::CheckResult& out, std::string_view name, ProbeState state, const std::string& detail,
         std::string_view lost, bool required) {
  auto& item = *out.add_items();
  item.set_name(std::string(name));
  item.set_state(to_string(state));
  item.set_detail(detail);
  item.set_lost(std::string(lost));
  item.set_required(required);
}

// What other nodes see of this one; from the file, which may be newer than what the agent has read.
void add_tls(const Config& config, control::v1::CheckResult& out) {
  constexpr const char* kLost = "whoever reaches the port, every workload too, is believed by the name that it gives, and memory travels in plain text; see `mose pki`";
  if (config.tls.plain_text) return add(out, "tls", ProbeState::no, "tls.plain_text = true", kLost, false);
  auto tls = load_tls(config);
  const move::NodeCertificate own = tls ? (*tls)->own() : move::NodeCertificate{};
  Status usable = tls ? own.check_time(std::time(nullptr)) : Status(std::unexpected(tls.error()));
  if (!usable) return add(out, "tls", ProbeState::no, usable.error().what, "no other node believes this one", true);
  add(out, "tls", ProbeState::yes, fmt::format("roles: {}; valid until {}", to_string(own.roles), move::format_unix_time(own.ends_unix_s)),
      kLost, false);
}

// CRIU is dear to prove and does not change while we run: once.
struct CriuProof {
  ProbeState present = ProbeState::no, canary = ProbeState::unknown;
  std::string present_detail, canary_detail;
};

CriuProof prove_criu(const Config& config) {
  CriuProof proof;
  restore::CriuSetup::Options options;
  options.criu = config.node.criu;
  auto setup = restore::CriuSetup::prepare(options);
  if (!setup) {
    proof.present_detail = setup.error().what;
    proof.canary_detail = "not tried without CRIU";
    return proof;
  }
  proof.present = ProbeState::yes;
  proof.present_detail = fmt::format("{} is version {}", setup->criu(), setup->version());
  restore::CanaryOptions canary;
  canary.cgroup_path = fmt::format("{}/mose-check-{}", config.node.cgroup, getpid());
  // On a file system that takes device nodes: /run is mounted nodev on most hosts.
  canary.scratch = fmt::format("{}/check-{}", config.node.state_dir, getpid());
  auto result = restore::run_canary(*setup, canary);
  proof.canary = result.works ? ProbeState::yes : ProbeState::no;
  proof.canary_detail =
      result.works ? fmt::format("dumped in {:.1f} ms, {} bytes", result.dump_ms, result.image_bytes) : result.reason;
  return proof;
}

const CriuProof& criu_proof(const Config& config) {
  static std::mutex lock;
  static std::optional<CriuProof> proof;
  std::lock_guard guard(lock);
  if (!proof) proof = prove_criu(config);
  return *proof;
}

void check_device(control::v1::CheckResult& out, std::string_view key, const std::string& device, std::string_view lost,
                  bool required) {
  if (device.empty()) return add(out, key, ProbeState::no, "not configured", lost, required);
  auto netlink = Netlink::open();
  auto link = netlink ? netlink->link(device) : Result<Netlink::LinkInfo>(std::unexpected(netlink.error()));
  if (!link) return add(out, key, ProbeState::no, link.error().what, lost, required);
  add(out, key, link->up ? ProbeState::yes : ProbeState::no, fmt::format("{} is {}", device, link->up ? "up" : "down"),
      lost, required);
}

// Attached is the proof; what the driver says of itself is not.
void check_uplink_xdp(control::v1::CheckResult& out, const Config& config) {
  const std::string& device = config.node.uplink;
  auto say = [&](ProbeState state, const std::string& detail) {
    add(out, "uplink-xdp", state, fmt::format("{} (node.steer is \"{}\")", detail, to_string(config.node.steer)),
        "stragglers are redirected at TC, after the kernel has made packets of them", false);
  };
  if (device.empty()) return say(ProbeState::no, "no uplink is configured");
  if (auto attached = handover::UplinkSteering::adopt(pin_root(config), device)) {
    bool native = attached->config().mode == bpf::XdpMode::native;
    return say(native ? ProbeState::yes : ProbeState::no,
               fmt::format("{} has our program, {}", device, handover::to_string(attached->config().mode)));
  }
  auto netlink = Netlink::open();
  auto link = netlink ? netlink->link(device) : Result<Netlink::LinkInfo>(std::unexpected(netlink.error()));
  auto features = link ? xdp_features(link->ifindex) : Result<XdpFeatures>(std::unexpected(link.error()));
  if (!features) return say(ProbeState::unknown, features.error().what);
  say(features->native ? ProbeState::yes : ProbeState::no,
      fmt::format("the driver of {} says that it {} native XDP{}", device, features->native ? "has" : "does not have",
                  features->native ? ", which is not in use" : ""));
}

void check_runtime_dir(control::v1::CheckResult& out, const Config& config) {
  struct statfs info;
  bool known = statfs(config.node.runtime_dir.c_str(), &info) == 0;
  bool tmpfs = known && static_cast<long>(info.f_type) == kTmpfsMagic;
  add(out, "runtime-dir",
      !known  ? ProbeState::unknown
      : tmpfs ? ProbeState::yes
              : ProbeState::no,
      config.node.runtime_dir + (tmpfs ? " is a tmpfs" : " is no tmpfs"),
      "images wait for a disk while the workload is stopped", false);
}

}  // namespace

void check_host(const Config& config, control::v1::CheckResult& result) {
  for (const Probe& item : kernel_probes()) {
    ProbeResult found = probe(item.name);
    add(result, item.name, found.state, found.detail, item.lost, item.required);
  }
  auto costs = host_calibration(config.node.state_dir);
  add(result, "tracking-cost", costs ? ProbeState::yes : ProbeState::unknown,
      costs ? sense::describe(*costs) : costs.error().what,
      "memory is write-protected for the last rounds only, whatever a write fault costs", false);
  auto steering = handover::steering_supported();
  add(result, "tc", steering ? ProbeState::yes : ProbeState::no,
      !steering                              ? steering.error().what
      : *steering == handover::TcAttach::tcx ? "programs are linked at TC (TCX)"
                                             : "programs are filters of clsact: no TCX links here",
      "packets cannot be held or redirected", true);
  const CriuProof& criu = criu_proof(config);
  add_tls(config, result);
  add(result, "criu", criu.present, criu.present_detail, "processes cannot be dumped or rebuilt; run tools/get-deps",
      true);
  add(result, "criu-canary", criu.canary, criu.canary_detail, "no workload can be moved: CRIU must dump without memory", true);
  check_device(result, "bridge", config.node.bridge, "no workload can be run here or arrive here", true);
  check_device(result, "uplink", config.node.uplink, "packets cannot be redirected to another node", true);
  check_uplink_xdp(result, config);
  check_runtime_dir(result, config);
  bool ok = true;
  for (const auto& item : result.items()) ok = ok && (!item.required() || item.state() == "yes");
  result.set_ok(ok);
}

}  // namespace mose::agent
