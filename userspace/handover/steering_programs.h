// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "handover/steering.h"
#include "kernel/bpf_object.h"
#include "mose/bpf/steer.h"
#include "steer_tc.skel.h"

// The programs themselves: loaded for one workload, and where each of them sits.
namespace mose::handover {

struct SkeletonFree {
  void operator()(steer_tc* skeleton) const { steer_tc__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<steer_tc, SkeletonFree>;

// Maps of its own, attached nowhere.
[[nodiscard]] Result<Skeleton> load_programs(const SteeringConfig& config);
// Links or filters: as asked for, as the environment says, as the kernel can.
[[nodiscard]] Result<TcAttach> choose_attach(TcAttach wanted);
// What attach() has fixed.
[[nodiscard]] Result<SteeringConfig> pinned_config(const std::string& bpffs, const std::string& workload);

// Where the programs sit; names end up in those of the pins.
struct ProgramPlace {
  const char* name;
  unsigned ifindex;
  bpf::TcPoint point;
};
[[nodiscard]] std::vector<ProgramPlace> places_of(const SteeringConfig& config);

}  // namespace mose::handover
