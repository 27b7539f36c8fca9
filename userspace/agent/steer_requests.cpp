// SPDX-License-Identifier: MIT
#include "agent/steer_requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "agent/away_network.h"
#include "agent/check.h"
#include "agent/migration_paths.h"
#include "agent/node_uplink.h"
#include "handover/workload_network.h"
#include "kernel/netlink.h"

namespace mose::agent {
namespace {

using Json = nlohmann::ordered_json;
using handover::Direction;
using handover::SteerExplanation;

bool has_address(const WorkloadSpec& spec, const std::string& text) {
  return std::any_of(spec.addresses.begin(), spec.addresses.end(),
                     [&](const ServiceAddress& address) { return format_address(address) == text; });
}

std::string bpffs_of(const Config& config, const WorkloadSpec& spec) {
  return network_config(config, spec).bpffs;
}

std::string device_name_of(unsigned ifindex) {
  auto netlink = Netlink::open();
  if (!netlink) return "";
  auto link = netlink->link(ifindex);
  return link ? link->name : fmt::format("device {}", ifindex);
}

// Null: on the segment.
Json tunnel_of(const std::optional<handover::Tunnel>& tunnel) {
  if (!tunnel) return nullptr;
  return {{"kind", "vxlan"},
          {"local", format_address(tunnel->local)},
          {"remote", format_address(tunnel->remote)},
          {"port", tunnel->port}};
}

// By name, what frames of the direction can be counted for.
Json frames_of(Direction direction, const handover::SteerCounters& counters) {
  Json out = Json::object();
  for (size_t reason = 0; reason < counters.reasons.size(); ++reason) {
    if (handover::can_count(direction, reason)) out[handover::reason_name(reason)] = counters.reasons[reason].frames;
  }
  return out;
}

// By state that frames have met, when the first and the last of them did, in milliseconds before now.
Json stamps_of(const handover::SteerCounters& counters) {
  Json out = Json::object();
  const auto at = static_cast<uint64_t>(now_ns());
  for (size_t state = 0; state < counters.stamps.size(); ++state) {
    const auto& stamps = counters.stamps[state];
    if (stamps.first_ns == 0) continue;
    auto ago = [at](uint64_t ns) { return to_ms(Nanoseconds(at - std::min(at, ns))); };
    out[handover::to_string(static_cast<handover::SteerState>(state))] = {{"first_ms", ago(stamps.first_ns)},
                                                                          {"last_ms", ago(stamps.last_ns)}};
  }
  return out;
}

// Counters of an address; those of the workload, by its own name, have what is counted for no address as well (broadcast, the
// state pass), and what waits, which is counted for all together.
void put_counters(Json& out, Direction direction, const handover::SteerCounters& own, const handover::SteerCounters& all) {
  const uint64_t waiting = all.queued - std::min(all.queued, all.drained);
  if (direction != Direction::uplink) {
    out["waiting"] = waiting;
    out["met"] = stamps_of(own);
  }
  out["dropped"] = own.dropped();
  out["frames"] = frames_of(direction, own);
  Json& workload = out["of_workload"];
  if (direction != Direction::uplink) {
    workload["waiting"] = waiting;
    workload["met"] = stamps_of(all);
  }
  workload["dropped"] = all.dropped();
  workload["frames"] = frames_of(direction, all);
}

Json policy_of(const handover::SteerPolicy& policy) {
  Json out{{"state", handover::to_string(policy.state)}};
  if (policy.state == handover::SteerState::drain) out["after_drain"] = handover::to_string(policy.after_drain);
  out["silent"] = policy.silent;
  const bool redirects =
      policy.state == handover::SteerState::redirect || policy.after_drain == handover::SteerState::redirect;
  out["tunnel"] = redirects ? tunnel_of(policy.tunnel) : Json(nullptr);
  out["since_ms"] = policy.since ? Json(to_ms(now() - *policy.since)) : Json(nullptr);
  out["expires_in_ms"] = nullptr;
  if (policy.deadline) {
    out["expires_in_ms"] = to_ms(std::max(*policy.deadline - now(), Nanoseconds::zero()));
    out["on_expiry"] = handover::to_string(policy.on_expiry);
  }
  if (policy.expired) out["expired"] = handover::to_string(*policy.expired);
  return out;
}

// Null: the uplink has no program at XDP, or none of its entries is for the address.
Json uplink_entry(const NodeUplink& uplink, const ServiceAddress& address) {
  auto view = uplink.view(address);
  if (!view) return nullptr;
  const bool away = view->entry.state == handover::UplinkState::redirect;
  return {{"device", view->device},
          {"layer", "xdp"},
          {"mode", view->mode},
          {"state", handover::to_string(view->entry.state)},
          {"peer_mac", away ? Json(format_mac(view->entry.peer_mac)) : Json(nullptr)},
          {"tunnel", away ? tunnel_of(view->entry.tunnel) : Json(nullptr)},
          {"passed", view->counters.passed.frames},
          {"taken", view->counters.taken.frames},
          {"redirected", view->counters.redirected.frames},
          {"dropped", view->counters.dropped()}};
}

// What the programs of a workload say, an object for each address.
Result<std::vector<Json>> view_of(const std::string& bpffs, const WorkloadSpec& spec) {
  MOSE_ASSIGN(auto steering, handover::Steering::adopt(bpffs, spec.name));
  const Json common{{"attached_by", handover::to_string(steering.config().attach)}};
  std::vector<Json> items(steering.config().addresses.size(), common);
  for (auto direction : {Direction::ingress, Direction::egress, Direction::uplink}) {
    const bool uplink = direction == Direction::uplink;
    if (uplink && steering.config().uplink_ifindex == 0) continue;
    Json policy = Json::object();
    if (!uplink) {
      MOSE_ASSIGN(handover::SteerPolicy now_there, steering.policy(direction));
      policy = policy_of(now_there);
    }
    MOSE_ASSIGN(handover::SteerCounters all, steering.counters(direction));
    MOSE_ASSIGN(auto own, steering.service_counters(direction));
    for (size_t i = 0; i < items.size(); ++i) {
      // "uplink" is the entry at XDP.
      Json& out = items[i][uplink ? "uplink_tc" : handover::to_string(direction)] = policy;
      put_counters(out, direction, own[i], all);
    }
  }
  MOSE_ASSIGN(auto taken, steering.taken_from());
  for (Json& item : items) {
    item["state"] = nullptr;
    item["reason"] = nullptr;
    item["taken_from"] = tunnel_of(taken);
    if (!item.contains("uplink_tc")) item["uplink_tc"] = nullptr;
  }
  return items;
}

// There are pins, and what they say cannot be read.
Json unknown(const std::string& reason) {
  Json out{{"attached_by", nullptr}, {"state", "unknown"}, {"reason", reason}};
  for (const char* direction : {"ingress", "egress"}) out[direction]["state"] = "unknown";
  out["taken_from"] = nullptr;
  out["uplink_tc"] = nullptr;
  return out;
}

// `after_drain`: of the policy, where it drains.
std::string why_of(const SteerExplanation& seen, const std::string& device, handover::SteerState after_drain) {
  std::string state = seen.state ? fmt::format(" in the state {}", handover::to_string(*seen.state)) : "";
  switch (seen.verdict) {
    case SteerExplanation::Verdict::pass:
      return fmt::format("passes{}", state);
    case SteerExplanation::Verdict::hold:
      if (seen.state == handover::SteerState::drain) {
        return fmt::format("is held{}: it waits in {} for what came before it, then the state is {}", state, device,
                           handover::to_string(after_drain));
      }
      return fmt::format("is held{}: it waits in {} until the handover has been decided", state, device);
    case SteerExplanation::Verdict::redirect:
      if (seen.tunnel) {
        return fmt::format("is redirected{}: it leaves by {} in a tunnel ({}), the next hop is {}", state, device,
                           format_tunnel(*seen.tunnel), format_mac(seen.destination_mac));
      }
      return fmt::format("is redirected{}: it leaves by {} to {}, as if {} had sent it", state, device,
                         format_mac(seen.destination_mac), format_mac(seen.source_mac));
    case SteerExplanation::Verdict::drop:
      return fmt::format("is dropped{} ({})", state, seen.reason);
  }
  return "";
}

// `unclaimed`: no migration decides about the workload, which is here.
Answer<std::string> explain_flow(const std::string& bpffs, const std::string& workload, const Flow& flow,
                                 const NodeUplink& uplink, bool unclaimed) {
  auto steering = handover::Steering::adopt(bpffs, workload);
  if (!steering && handover::Steering::pinned(bpffs, workload)) {
    return refuse(fmt::format("what steers {} on this node cannot be asked: {}", workload, steering.error().what), 1);
  }
  if (!steering) return refuse(fmt::format("nothing steers {} on this node: {}", workload, steering.error().what));
  auto seen = steering->explain(flow);
  if (!seen) return refuse(seen.error().what, 1);
  auto policy = steering->policy(seen->direction);
  if (!policy) return refuse(policy.error().what, 1);
  std::string device = seen->ifindex != 0 ? device_name_of(seen->ifindex) : "";
  const Json entry = uplink_entry(uplink, flow.destination);
  const bool at_xdp = seen->direction == Direction::ingress && entry.is_object() &&
                      entry["state"] == handover::to_string(handover::UplinkState::redirect);
  std::string why = why_of(*seen, device, policy->after_drain);
  if (at_xdp) {
    why += fmt::format("; where it comes in by {} it is redirected at XDP before that", entry["device"].get<std::string>());
  }
  const bool by_state = seen->state && *seen->state != handover::SteerState::pass;
  const bool closed = seen->verdict == SteerExplanation::Verdict::hold ||
                      (seen->verdict == SteerExplanation::Verdict::drop && by_state);
  if (closed && unclaimed) {
    why += fmt::format("; no migration is left that would decide, `mose steer release {}` ends it", workload);
  }
  Json out{{"flow", format_flow(flow)},
           {"workload", workload},
           {"direction", handover::to_string(seen->direction)},
           {"at", at_xdp ? "xdp" : "tc"},
           {"state", nullptr},
           {"verdict", handover::to_string(seen->verdict)},
           {"reason", seen->reason},
           {"device", nullptr},
           {"destination_mac", nullptr},
           {"source_mac", nullptr},
           {"tunnel", tunnel_of(seen->tunnel)},
           {"same_programs", seen->same_programs},
           {"unclaimed", unclaimed},
           {"uplink", entry},
           {"why", why}};
  if (seen->state) out["state"] = handover::to_string(*seen->state);
  if (!device.empty()) out["device"] = device;
  if (seen->verdict == SteerExplanation::Verdict::redirect) {
    out["destination_mac"] = format_mac(seen->destination_mac);
    out["source_mac"] = format_mac(seen->source_mac);
  }
  return out.dump();
}

std::optional<Timestamp> earlier(std::optional<Timestamp> a, std::optional<Timestamp> b) {
  return a && b ? std::min(*a, *b) : a ? a : b;
}

Result<SteerRequests::Closed> closed_of(const std::string& bpffs, const std::string& workload) {
  MOSE_ASSIGN(auto steering, handover::Steering::adopt(bpffs, workload));
  MOSE_ASSIGN(handover::SteerPolicy ingress, steering.policy(Direction::ingress));
  MOSE_ASSIGN(handover::SteerPolicy egress, steering.policy(Direction::egress));
  SteerRequests::Closed item{.workload = workload, .ingress = ingress.state, .egress = egress.state};
  for (const handover::SteerPolicy* policy : {&ingress, &egress}) {
    if (policy->state == handover::SteerState::pass) continue;
    item.since = earlier(item.since, policy->since);
    item.deadline = earlier(item.deadline, policy->deadline);
  }
  return item;
}

Result<std::string> release_running(const handover::WorkloadNetworkConfig& config, const std::vector<std::string>& holders,
                                    const ProcessHandle& init) {
  MOSE_ASSIGN(Fd netns, open_namespace(init, NamespaceKind::net));
  MOSE_ASSIGN(auto network, handover::WorkloadNetwork::open_existing(config, netns.get()));
  MOSE_ASSIGN(handover::SteerPolicy ingress, network.steering().policy(Direction::ingress));
  MOSE_ASSIGN(handover::SteerPolicy egress, network.steering().policy(Direction::egress));
  MOSE_ASSIGN(uint64_t lost, network.release(holders));
  return fmt::format("{} is in service: ingress was {}, egress was {}{}", config.workload,
                     handover::to_string(ingress.state), handover::to_string(egress.state),
                     lost > 0 ? fmt::format("; {} frames that waited and that nobody could put back are lost", lost) : "");
}

}  // namespace

const Workload* SteerRequests::find(const std::string& service) const {
  for (const Workload* workload : core_.workloads.list()) {
    if (workload->spec.name == service || has_address(workload->spec, service)) return workload;
  }
  return nullptr;
}

bool SteerRequests::claimed(const std::string& workload) const {
  const auto migrations = service_.list();
  return std::any_of(migrations.begin(), migrations.end(),
                     [&](const MigrationProgress& migration) { return migration.workload == workload; });
}

Answer<std::string> SteerRequests::show(const std::string& service) const {
  Json out = Json::array();
  for (const Workload* workload : core_.workloads.list()) {
    const WorkloadSpec& spec = workload->spec;
    if (!service.empty() && spec.name != service && !has_address(spec, service)) continue;
    const std::string bpffs = bpffs_of(core_.config, spec);
    if (!handover::Steering::pinned(bpffs, spec.name)) continue;
    auto view = view_of(bpffs, spec);
    for (size_t i = 0; i < spec.addresses.size(); ++i) {
      std::string address = format_address(spec.addresses[i]);
      if (!service.empty() && spec.name != service && address != service) continue;
      Json item{{"service", address}, {"workload", spec.name}, {"workload_state", to_string(workload->state)}};
      if (view && i < view->size()) {
        item.update((*view)[i]);
      } else {
        item.update(unknown(view ? "its programs were loaded for other addresses" : view.error().what));
      }
      item["uplink"] = uplink_entry(core_.uplink, spec.addresses[i]);
      out.push_back(std::move(item));
    }
  }
  if (!service.empty() && out.empty()) {
    return refuse(fmt::format("no service \"{}\" is steered on node {}: see `mose steer show`", service, core_.config.node.name),
                  kExitUsage);
  }
  return out.dump();
}

std::vector<SteerRequests::Closed> SteerRequests::closed() const {
  std::vector<Closed> out;
  for (const Workload* workload : core_.workloads.list()) {
    // Others are redirected, or their network is being made or thrown away.
    const bool here = workload->state == WorkloadState::running || workload->state == WorkloadState::moving ||
                      workload->state == WorkloadState::arriving;
    if (!here) continue;
    const std::string bpffs = bpffs_of(core_.config, workload->spec);
    if (!handover::Steering::pinned(bpffs, workload->spec.name)) continue;
    auto item = closed_of(bpffs, workload->spec.name);
    if (!item) {
      item = Closed{.workload = workload->spec.name, .unknown = item.error().what};
    } else if (item->ingress == handover::SteerState::pass && item->egress == handover::SteerState::pass) {
      continue;
    }
    item->unclaimed = !claimed(workload->spec.name);
    out.push_back(std::move(*item));
  }
  return out;
}

void SteerRequests::explain(const std::string& text, std::function<void(Answer<std::string>)> done) const {
  auto flow = parse_flow(text);
  if (!flow) return done(refuse(flow.error().what, kExitUsage));
  const Workload* workload = find(format_address(flow->destination));
  if (workload == nullptr) workload = find(format_address(flow->source));
  if (workload == nullptr) {
    return done(refuse(fmt::format("neither {} nor {} is the address of a workload of node {}: see `mose steer show`",
                                   format_address(flow->source), format_address(flow->destination), core_.config.node.name),
                       kExitUsage));
  }
  const bool unclaimed = workload->state == WorkloadState::running && !claimed(workload->spec.name);
  core_.workers.run([bpffs = bpffs_of(core_.config, workload->spec), name = workload->spec.name, flow = *flow,
                     &uplink = core_.uplink, unclaimed] { return explain_flow(bpffs, name, flow, uplink, unclaimed); },
                    std::move(done));
}

void SteerRequests::release(const std::string& service, std::function<void(Answer<std::string>)> done) const {
  const Workload* workload = find(service);
  if (workload == nullptr) {
    return done(refuse(fmt::format("no service \"{}\" on node {}: see `mose steer show`", service, core_.config.node.name),
                       kExitUsage));
  }
  const std::string& name = workload->spec.name;
  for (const MigrationProgress& migration : service_.list()) {
    if (migration.workload != name) continue;
    return done(refuse(fmt::format("migration {} decides about the packets of {}: `mose cancel` it before its commit, "
                                   "`mose recover` it when it is stuck",
                                   migration.id.hex(), name)));
  }
  handover::WorkloadNetworkConfig config = network_config(core_.config, workload->spec);
  if (workload->state == WorkloadState::running && workload->init) {
    core_.workers.run([config, holders = holder_files(core_.config),
                       init = workload->init] { return release_running(config, holders, *init); },
                      [done = std::move(done)](Result<std::string> sentence) {
                        if (!sentence) return done(refuse(sentence.error().what, 1));
                        done(std::move(*sentence));
                      });
    return;
  }
  if (workload->state != WorkloadState::away) {
    return done(refuse(fmt::format("{} is {}: only what steers a running workload, or one that has left, can be released",
                                   name, to_string(workload->state))));
  }
  core_.workers.run([&config = core_.config, name] { return end_network(config, name); },
                    [name, node = workload->node, done = std::move(done)](const Status& gone) {
                      if (!gone) return done(refuse(gone.error().what, 1));
                      done(fmt::format("nothing of {} is redirected to node {} any more", name, node));
                    });
}

}  // namespace mose::agent
