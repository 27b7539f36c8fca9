// SPDX-License-Identifier: MIT
#include "handover/uplink_programs.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernel/bpf_object.h"
#include "steer_xdp.skel.h"

namespace mose::handover {

// A bpffs takes no dots, the name of a device no colons.
std::string uplink_pins(const std::string& bpffs, const std::string& device) {
  std::string name = device;
  std::replace(name.begin(), name.end(), '.', ':');
  return bpffs + "/mose/" + std::string(kUplinkPrefix) + name;
}

UplinkSteeringConfig from_kernel(const mose_uplink_config& in, const std::string& device, const std::string& bpffs,
                                 uint32_t entries_max) {
  UplinkSteeringConfig config{.device = device, .ifindex = in.ifindex, .entries_max = entries_max, .bpffs = bpffs};
  std::copy(std::begin(in.mac), std::end(in.mac), config.mac.begin());
  config.mode = in.mode == MOSE_UPLINK_GENERIC ? bpf::XdpMode::generic : bpf::XdpMode::native;
  return config;
}

Result<UplinkPrograms> UplinkPrograms::load(const UplinkSteeringConfig& config) {
  if (config.entries_max == 0 || config.entries_max > kUplinkEntriesMax) {
    return fail("an uplink takes 1 to " + std::to_string(kUplinkEntriesMax) + " addresses");
  }
  UplinkPrograms programs;
  MOSE_ASSIGN(programs.skeleton_, bpf::load_skeleton<steer_xdp>("the uplink's program", [&](steer_xdp& skeleton) -> Status {
    mose_uplink_config fixed{};
    fixed.version = MOSE_STEER_VERSION;
    fixed.ifindex = config.ifindex;
    std::copy(config.mac.begin(), config.mac.end(), fixed.mac);
    fixed.mode = config.mode == bpf::XdpMode::generic ? MOSE_UPLINK_GENERIC : MOSE_UPLINK_NATIVE;
    // The read-only section is ours until loaded; the skeleton declares it const.
    std::memcpy(const_cast<mose_uplink_config*>(&skeleton.rodata->mose_config), &fixed, sizeof fixed);
    for (auto [map, size] : {std::pair{skeleton.maps.mose_uplink, config.entries_max},
                             std::pair{skeleton.maps.mose_uplink_counts, config.entries_max + 1}}) {
      if (int code = bpf_map__set_max_entries(map, size); code < 0) return bpf::fail_libbpf("size a map", code);
    }
    return {};
  }));
  MOSE_ASSIGN(unsigned cpus, bpf::possible_cpus());
  const mose_steer_service nobody{};
  const std::vector<mose_uplink_counts> zero(cpus);
  MOSE_TRY(bpf::map_update(programs.counts(), &nobody, zero.data()));
  return programs;
}

int UplinkPrograms::program() const {
  return bpf_program__fd(skeleton_->progs.steer_xdp);
}

int UplinkPrograms::entries() const {
  return bpf_map__fd(skeleton_->maps.mose_uplink);
}

int UplinkPrograms::counts() const {
  return bpf_map__fd(skeleton_->maps.mose_uplink_counts);
}

int UplinkPrograms::config() const {
  return bpf_map__fd(skeleton_->maps.rodata);
}

}  // namespace mose::handover
