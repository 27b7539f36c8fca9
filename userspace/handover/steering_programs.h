// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "base/result.h"
#include "handover/steering.h"
#include "kernel/bpf_object.h"
#include "kernel/bpf_skeleton.h"
#include "mose/bpf/steer.h"
#include "steer_tc.skel.h"

// The programs themselves: loaded for one workload, and where each of them sits.
namespace mose::handover {

using Skeleton = bpf::Skeleton<steer_tc>;

// Of the programs' maps by the names of their pins, those that are given instead of new ones; -1: a new one.
struct GivenMaps {
  int services = -1, queues = -1, drained = -1, drained_bytes = -1, counts = -1;
};
// Attached nowhere, and but for those given with maps of its own.
[[nodiscard]] Result<Skeleton> load_programs(const SteeringConfig& config, const GivenMaps& given = {});
// Links or filters: as asked for, as the environment says, as the kernel can.
[[nodiscard]] Result<TcAttach> choose_attach(TcAttach wanted);
// What attach() has fixed.
[[nodiscard]] Result<SteeringConfig> pinned_config(const std::string& bpffs, const std::string& workload);
[[nodiscard]] SteeringConfig from_kernel(const mose_steer_config& in, const std::string& bpffs,
                                         const std::string& workload);

// Where the programs sit; names end up in those of the pins.
struct ProgramPlace {
  const char* name;
  unsigned ifindex;
  bpf::TcPoint point;
};
[[nodiscard]] std::vector<ProgramPlace> places_of(const SteeringConfig& config);
// Those for places_of(), in its order, borrowed.
[[nodiscard]] std::vector<int> programs_of(const steer_tc& skeleton, const SteeringConfig& config);

}  // namespace mose::handover
