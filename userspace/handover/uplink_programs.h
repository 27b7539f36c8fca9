// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "handover/uplink_steering.h"
#include "kernel/bpf_skeleton.h"
#include "mose/bpf/steer.h"

struct steer_xdp;
struct btf;

// The program of an uplink itself: loaded for one device, and where it is pinned.
namespace mose::handover {

inline constexpr std::string_view kUplinkPrefix = "uplink:";
[[nodiscard]] std::string uplink_pins(const std::string& bpffs, const std::string& device);

[[nodiscard]] UplinkSteeringConfig from_kernel(const mose_uplink_config& in, const std::string& device,
                                               const std::string& bpffs, uint32_t entries_max);

class UplinkPrograms {
 public:
  // Maps of its own (the counters of frames for no service among them), attached nowhere.
  [[nodiscard]] static Result<UplinkPrograms> load(const UplinkSteeringConfig& config);

  // Borrowed.
  [[nodiscard]] int program() const;
  [[nodiscard]] int entries() const;
  [[nodiscard]] int counts() const;
  [[nodiscard]] int config() const;

 private:
  bpf::Skeleton<steer_xdp> skeleton_;
};

}  // namespace mose::handover
