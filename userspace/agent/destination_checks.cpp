// SPDX-License-Identifier: MIT
// What a destination looks at before it takes a workload, and before it restores one.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "agent/destination_host.h"
#include "agent/free_space.h"
#include "agent/node_secrets.h"
#include "agent/privileges.h"
#include "agent/root_devices.h"
#include "agent/workloads.h"
#include "base/units.h"
#include "kernel/confinement.h"
#include "kernel/netlink.h"
#include "restore/image_capabilities.h"

namespace mose::agent {
namespace {

namespace fs = std::filesystem;

Result<uint64_t> available_memory() {
  MOSE_ASSIGN(std::string text, read_file("/proc/meminfo"));
  size_t at = text.find("MemAvailable:");
  if (at == std::string::npos) return fail("/proc/meminfo names no MemAvailable");
  return std::strtoull(text.c_str() + at + 13, nullptr, 10) * 1024;
}

}  // namespace

Status DestinationHost::check_address() {
  for (const ServiceAddress& address : payload_.spec.addresses) {
    MOSE_ASSIGN(auto owners, handover::probe_address(config_.node.bridge, address));
    for (const MacAddress& owner : owners) {
      if (owner == payload_.spec.mac) continue;
      return fail(fmt::format("address {} is used by {} on this segment: give the workload another one", format_address(address),
                              format_mac(owner)));
    }
  }
  return {};
}

Status DestinationHost::check() {
  const WorkloadSpec& spec = payload_.spec;
  MOSE_TRY(check_space(config_.node.runtime_dir, kImagesSpaceMin));
  MOSE_ASSIGN(uint64_t available, available_memory());
  MOSE_TRY(check_memory(available, payload_.memory_bytes));
  // The source's word is an estimate: what processes share counts for each of them.
  reserve_max_ = available / 4;
  if (uint64_t most = config_.limits.store_bytes_max; most != 0 && payload_.memory_bytes > most) {
    return fail(fmt::format("the workload has {} of memory and limits.store_bytes_max allows {} here", format_bytes(payload_.memory_bytes),
                            format_bytes(most)));
  }
  std::error_code error;
  const std::string state_dir = workload_paths(config_, spec.name).state_dir;
  if (!fs::is_directory(spec.root, error)) return fail(fmt::format("root {} of workload {} does not exist here", spec.root, spec.name));
  for (const WorkloadMount& mount : spec.mounts) {
    if (mount.mode == MountMode::copy) {
      // Its contents will be the source's: what is there and was not brought by us is somebody's.
      if (fs::exists(mount.source, error) && !fs::is_empty(mount.source, error) && !copied_here(state_dir, mount.source)) {
        return fail(fmt::format("{} holds files here that the copy of mount {} would replace: empty it, or declare the mount identical or shared",
                                mount.source, mount.target));
      }
    } else if (!fs::exists(mount.source, error)) {
      return fail(fmt::format("mount source {} of workload {} does not exist here", mount.source, spec.name));
    }
    auto around = [&](const WorkloadMount& other) { return mount.target.starts_with(other.target + "/"); };
    if (std::ranges::none_of(spec.mounts, around) && !fs::exists(spec.root + mount.target, error)) {
      return fail(fmt::format("mount target {} of workload {} does not exist in root {} here: make it there", mount.target, spec.name, spec.root));
    }
  }
  if (std::string shown = shown_node_secrets(config_, spec); !shown.empty()) {
    return fail(fmt::format("workload {} would see here what is this node's alone, {}: nothing is mounted over it in its root, or one of its mounts shows "
                            "it. Keep that where it lies on the node it comes from, or start the workload here anew",
                            spec.name, shown));
  }
  MOSE_TRY(check_capabilities(payload_.capabilities.value_or(0)));
  MOSE_TRY(check_devices());
  auto reasons = compare_files(spec, payload_.files);
  if (!reasons.empty()) return fail(reasons.front());
  MOSE_TRY(check_mtu());
  return check_address();
}

Status DestinationHost::check_capabilities(uint64_t permitted) const {
  std::string missing = capabilities_missing_here(permitted);
  if (missing.empty()) return {};
  return fail(fmt::format("workload {} has {}, which the agent of this node has not and cannot give back to it: start the workload anew",
                          payload_.spec.name, missing));
}

// Who has SYS_ADMIN is root of the node as it is.
Status DestinationHost::check_devices() const {
  if (((payload_.capabilities.value_or(0) >> CAP_SYS_ADMIN) & 1) != 0) return {};
  MOSE_ASSIGN(std::string devices, devices_of_the_node(payload_.spec));
  if (devices.empty()) return {};
  return fail(fmt::format("workload {} would be given {} of this node: remove that from its root {} here", payload_.spec.name, devices, payload_.spec.root));
}

// What PREPARE has said was looked at before anything was made here; CRIU goes by the images.
Status DestinationHost::check_images(const ImagesPayload& images) const {
  MOSE_ASSIGN(uint64_t permitted, restore::permitted_capabilities(images.images));
  MOSE_TRY(check_capabilities(permitted));
  if (!payload_.capabilities) return {};  // an agent that does not say them
  const uint64_t more = permitted & ~*payload_.capabilities;
  if (more == 0) return {};
  return fail(fmt::format("workload {} comes with {}, of which node {} has not said that it has them: if it has got them since the move began, move it "
                          "again",
                          payload_.spec.name, capability_names(more), peer_));
}

// Both ends of a connection have agreed on how long its segments are, and what is too long for a bridge vanishes unseen.
Status DestinationHost::check_mtu() const {
  MOSE_ASSIGN(auto netlink, Netlink::open());
  for (const std::string& name : {config_.node.bridge, config_.node.uplink}) {
    if (name.empty()) continue;
    MOSE_ASSIGN(auto device, netlink.link(name));
    if (device.mtu >= payload_.mtu) continue;
    return fail(fmt::format("packets of the workload have up to {} bytes (MTU of its device) and {} takes {} here: raise that MTU, or start the "
                            "workload anew under a bridge with that MTU",
                            payload_.mtu, name, device.mtu));
  }
  return {};
}

}  // namespace mose::agent
