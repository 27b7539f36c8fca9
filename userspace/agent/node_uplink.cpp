// SPDX-License-Identifier: MIT
#include "agent/node_uplink.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "kernel/netlink.h"

namespace mose::agent {

using handover::UplinkEntry;
using handover::UplinkState;
using handover::UplinkSteering;

std::string pin_root(const Config& config) {
  constexpr std::string_view kSuffix = "/mose";
  std::string root = config.node.bpffs;
  if (root.ends_with(kSuffix)) root.resize(root.size() - kSuffix.size());
  return root;
}

Status NodeUplink::attach(bpf::XdpMode mode) {
  const std::string& device = config_.node.uplink;
  MOSE_ASSIGN(auto netlink, Netlink::open());
  MOSE_ASSIGN(auto link, netlink.link(device));
  handover::UplinkSteeringConfig wanted{.device = device,
                                        .ifindex = link.ifindex,
                                        .mac = link.mac,
                                        .mode = mode,
                                        .entries_max = config_.limits.xdp_services_max,
                                        .bpffs = pin_root(config_)};
  auto renewed = UplinkSteering::renew(wanted);
  if (renewed && *renewed) log::info("the uplink's XDP program was replaced", {{"uplink", device}});
  if (!renewed && renewed.error().code != ENOENT) {
    log::warn("the uplink's XDP program is attached anew", {{"reason", renewed.error().what}});
  }
  if (auto found = UplinkSteering::adopt(wanted.bpffs, device); found && found->config() == wanted) {
    log::info("the uplink's XDP program was adopted", {{"uplink", device}, {"mode", handover::to_string(mode)}});
    steering_.emplace(std::move(*found));
    return {};
  }
  // Of another device of that name or in another mode.
  MOSE_TRY(UplinkSteering::remove_pins(wanted.bpffs, device));
  MOSE_ASSIGN(auto attached, UplinkSteering::attach(wanted));
  log::info("moved services are redirected at XDP", {{"uplink", device}, {"mode", handover::to_string(mode)}});
  steering_.emplace(std::move(attached));
  return {};
}

Status NodeUplink::make() {
  const std::string& device = config_.node.uplink;
  const SteerMode mode = config_.node.steer;
  released_ = false;
  steering_.reset();
  auto at_tc = [&](std::string why) -> Status {
    reason_ = std::move(why);
    return device.empty() ? Status{} : UplinkSteering::remove_pins(pin_root(config_), device);
  };
  const bool demanded = mode == SteerMode::xdp || mode == SteerMode::xdp_generic;
  if (device.empty()) {
    if (demanded) return fail(fmt::format("node.steer = \"{}\" needs a device: set node.uplink", to_string(mode)));
    return at_tc("node.uplink is not set");
  }
  if (mode == SteerMode::tc) return at_tc("node.steer is \"tc\"");
  if (mode == SteerMode::automatic) {
    auto netlink = Netlink::open();
    auto link = netlink ? netlink->link(device) : Result<Netlink::LinkInfo>(std::unexpected(netlink.error()));
    if (!link) return at_tc(link.error().what);
    if (!link->physical) return at_tc(fmt::format("uplink {} is a virtual device, where TC costs less", device));
  }
  auto attached = attach(mode == SteerMode::xdp_generic ? bpf::XdpMode::generic : bpf::XdpMode::native);
  if (attached) return {};
  reason_ = attached.error().what;
  if (demanded) {
    return fail(fmt::format("node.steer = \"{}\" cannot be had: {}; set node.steer to \"{}\"", to_string(mode), reason_,
                            mode == SteerMode::xdp ? "auto\", \"tc\" or \"xdp-generic" : "auto\" or \"tc"));
  }
  log::warn("packets are redirected at TC", {{"uplink", device}, {"reason", reason_}});
  return {};
}

Status NodeUplink::start() {
  std::lock_guard lock(mutex_);
  return make();
}

Status NodeUplink::ready() {
  std::lock_guard lock(mutex_);
  if (steering_ ? steering_->attached() : !released_) return {};
  if (steering_) log::warn("the uplink has lost its XDP program", {{"uplink", config_.node.uplink}});
  return make();
}

Status NodeUplink::usable() const {
  std::lock_guard lock(mutex_);
  if (steering_ || released_) return {};
  return fail(reason_);
}

Status NodeUplink::put_all(const WorkloadSpec& spec, const UplinkEntry& entry) {
  for (const ServiceAddress& address : spec.addresses) MOSE_TRY(steering_->put(address, entry));
  return {};
}

Status NodeUplink::arrived(const WorkloadSpec& spec) {
  std::lock_guard lock(mutex_);
  if (!steering_) return {};
  return put_all(spec, {.state = UplinkState::local, .workload = spec.name, .service_mac = spec.mac});
}

Status NodeUplink::leaves(const WorkloadSpec& spec) {
  std::lock_guard lock(mutex_);
  if (!steering_) return {};
  for (const ServiceAddress& address : spec.addresses) {
    MOSE_ASSIGN(auto entry, steering_->entry(address));
    if (entry && entry->state == UplinkState::local) MOSE_TRY(steering_->erase(address));
  }
  return {};
}

Result<bool> NodeUplink::redirect(const WorkloadSpec& spec, const handover::PeerPath& peer) {
  std::lock_guard lock(mutex_);
  if (!steering_ || !steering_->attached()) return false;
  const auto& own = steering_->config();
  MOSE_TRY(put_all(spec, {.state = UplinkState::redirect,
                          .workload = spec.name,
                          .service_mac = spec.mac,
                          .peer_ifindex = own.ifindex,
                          .peer_mac = peer.mac,
                          .own_mac = own.mac,
                          .tunnel = peer.tunnel}));
  return true;
}

uint64_t NodeUplink::redirected(const WorkloadSpec& spec) const {
  std::lock_guard lock(mutex_);
  uint64_t frames = 0;
  if (!steering_) return frames;
  for (const ServiceAddress& address : spec.addresses) {
    if (auto counters = steering_->counters(address)) frames += counters->redirected.frames;
  }
  return frames;
}

void NodeUplink::reconcile(const std::vector<WorkloadSpec>& here,
                           const std::function<bool(const std::string&)>& leaving) {
  for (const WorkloadSpec& spec : here) {
    if (auto put = arrived(spec); !put) {
      log::warn("the uplink does not know a workload", {{"workload", spec.name}, {"reason", put.error().what}});
    }
  }
  std::lock_guard lock(mutex_);
  if (!steering_) return;
  auto items = steering_->entries();
  if (!items) return log::warn("the uplink's entries cannot be read", {{"reason", items.error().what}});
  for (const auto& [address, entry] : *items) {
    auto is_here = [&](const WorkloadSpec& spec) { return spec.name == entry.workload; };
    if (leaving(entry.workload) || std::any_of(here.begin(), here.end(), is_here)) continue;
    log::info("an entry of the uplink whose workload is gone is removed",
              {{"workload", entry.workload}, {"address", format_address(address)}});
    if (auto erased = steering_->erase(address); !erased) {
      log::warn("an entry of the uplink stays", {{"workload", entry.workload}, {"reason", erased.error().what}});
    }
  }
}

std::vector<std::string> NodeUplink::clean_up() {
  std::lock_guard lock(mutex_);
  std::vector<std::string> notes;
  for (const std::string& device : UplinkSteering::pinned_devices(pin_root(config_))) {
    // A program that is on no device any more serves nobody, whatever its entries say.
    auto found = UplinkSteering::adopt(pin_root(config_), device);
    auto entries = found ? found->entries() : Result<std::vector<UplinkSteering::Item>>{};
    if (!entries || !entries->empty()) continue;
    const bool ours = steering_ && steering_->config().device == device;
    if (ours) steering_.reset();
    released_ = released_ || ours;
    auto removed = UplinkSteering::remove_pins(pin_root(config_), device);
    notes.push_back(removed ? fmt::format("the XDP program of uplink {} is detached{}", device,
                                          ours ? ": the next migration attaches it again" : "")
                            : removed.error().what);
  }
  return notes;
}

std::optional<NodeUplink::View> NodeUplink::view(const ServiceAddress& address) const {
  std::lock_guard lock(mutex_);
  if (!steering_) return std::nullopt;
  auto entry = steering_->entry(address);
  auto counters = steering_->counters(address);
  if (!entry || !*entry || !counters) return std::nullopt;
  return View{steering_->config().device, handover::to_string(steering_->config().mode), **entry, *counters};
}

}  // namespace mose::agent
