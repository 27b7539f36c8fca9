// SPDX-License-Identifier: MIT
#include "handover/steering_programs.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "handover/steering_maps.h"

namespace mose::handover {
namespace {

Status fill_config(mose_steer_config& out, const SteeringConfig& config) {
  if (config.addresses.empty() || config.addresses.size() > MOSE_STEER_SERVICES_MAX) {
    return fail("steering takes 1 to " + std::to_string(MOSE_STEER_SERVICES_MAX) + " addresses, not " +
                std::to_string(config.addresses.size()));
  }
  out.version = MOSE_STEER_VERSION;
  out.services_count = static_cast<uint32_t>(config.addresses.size());
  for (size_t i = 0; i < config.addresses.size(); ++i) {
    out.services[i] = to_kernel(config.addresses[i]);
  }
  out.host_ifindex = config.host_ifindex;
  out.uplink_ifindex = config.uplink_ifindex;
  std::copy(config.mac.begin(), config.mac.end(), out.service_mac);
  std::copy(config.uplink_mac.begin(), config.uplink_mac.end(), out.uplink_mac);
  out.attach = config.attach == TcAttach::clsact ? MOSE_STEER_CLSACT : MOSE_STEER_TCX;
  return {};
}

}  // namespace

Result<TcAttach> choose_attach(TcAttach wanted) {
  if (wanted != TcAttach::automatic) return wanted;
  if (const char* forced = getenv("MOSE_TC_ATTACH"); forced != nullptr && *forced != 0) {
    if (std::string_view(forced) == "tcx") return TcAttach::tcx;
    if (std::string_view(forced) == "clsact") return TcAttach::clsact;
    return fail(std::string("MOSE_TC_ATTACH is \"") + forced + "\": tcx or clsact");
  }
  return bpf::probe_tcx() ? TcAttach::tcx : TcAttach::clsact;
}

std::vector<ProgramPlace> places_of(const SteeringConfig& config) {
  std::vector<ProgramPlace> places{{"ingress", config.host_ifindex, bpf::TcPoint::egress},
                                   {"egress", config.host_ifindex, bpf::TcPoint::ingress}};
  if (config.uplink_ifindex != 0) places.push_back({"uplink", config.uplink_ifindex, bpf::TcPoint::ingress});
  return places;
}

std::vector<int> programs_of(const steer_tc& skeleton, const SteeringConfig& config) {
  std::vector<int> programs{bpf_program__fd(skeleton.progs.steer_ingress), bpf_program__fd(skeleton.progs.steer_egress),
                            bpf_program__fd(skeleton.progs.steer_uplink)};
  programs.resize(places_of(config).size());
  return programs;
}

Result<Skeleton> load_programs(const SteeringConfig& config, const GivenMaps& given) {
  return bpf::load_skeleton<steer_tc>("the steering programs", [&](steer_tc& skeleton) -> Status {
    mose_steer_config fixed{};
    MOSE_TRY(fill_config(fixed, config));
    // The read-only section is ours until loaded; the skeleton declares it const.
    std::memcpy(const_cast<mose_steer_config*>(&skeleton.rodata->mose_config), &fixed, sizeof fixed);
    for (auto [map, fd] : {std::pair{skeleton.maps.mose_services, given.services},
                           {skeleton.maps.mose_queues, given.queues},
                           {skeleton.maps.mose_drained, given.drained},
                           {skeleton.maps.mose_drained_bytes, given.drained_bytes},
                           {skeleton.maps.mose_counts, given.counts}}) {
      if (fd < 0) continue;
      if (int code = bpf_map__reuse_fd(map, fd); code < 0) return bpf::fail_libbpf("give the programs a map", code);
    }
    return {};
  });
}

Result<SteeringConfig> pinned_config(const std::string& bpffs, const std::string& workload) {
  std::string directory = pin_directory(bpffs, workload) + "/";
  MOSE_ASSIGN(Fd fixed, bpf::open_pinned(directory + "config"));
  MOSE_TRY(expect_size(fixed.get(), sizeof(mose_steer_config), "config"));
  mose_steer_config in{};
  uint32_t zero = 0;
  MOSE_TRY(bpf::map_lookup(fixed.get(), &zero, &in));
  if (in.version != MOSE_STEER_VERSION || in.services_count > MOSE_STEER_SERVICES_MAX) {
    return fail("pinned steering of " + workload + " has version " + std::to_string(in.version) +
                ", this agent knows " + std::to_string(MOSE_STEER_VERSION));
  }
  return from_kernel(in, bpffs, workload);
}

SteeringConfig from_kernel(const mose_steer_config& in, const std::string& bpffs, const std::string& workload) {
  SteeringConfig config{.workload = workload, .bpffs = bpffs};
  config.attach = static_cast<TcAttach>(in.attach);
  config.host_ifindex = in.host_ifindex;
  config.uplink_ifindex = in.uplink_ifindex;
  std::copy(std::begin(in.service_mac), std::end(in.service_mac), config.mac.begin());
  std::copy(std::begin(in.uplink_mac), std::end(in.uplink_mac), config.uplink_mac.begin());
  for (uint32_t i = 0; i < std::min<uint32_t>(in.services_count, MOSE_STEER_SERVICES_MAX); ++i) {
    config.addresses.push_back(from_kernel(in.services[i]));
  }
  return config;
}

}  // namespace mose::handover
