// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "handover/steering.h"
#include "mose/bpf/steer.h"

// The maps of one workload's programs, by the contract in include/mose/bpf/steer.h: what the parts of Steering share.
namespace mose::handover {

[[nodiscard]] std::string pin_directory(const std::string& bpffs, const std::string& workload);
[[nodiscard]] mose_steer_service to_kernel(const ServiceAddress& address);
[[nodiscard]] ServiceAddress from_kernel(const mose_steer_service& in);
[[nodiscard]] mose_steer_tunnel to_kernel(const std::optional<Tunnel>& tunnel);
[[nodiscard]] std::optional<Tunnel> from_kernel(const mose_steer_tunnel& in);
[[nodiscard]] Status check_tunnel(const std::optional<Tunnel>& tunnel);
// What takes the place of `before`: the next epoch, and a state that stays the same goes on since then.
[[nodiscard]] mose_steer_policy to_kernel(const SteerPolicy& policy, const mose_steer_policy& before);
[[nodiscard]] SteerPolicy from_kernel(const mose_steer_policy& in);
// A value of a map must have the size this agent knows, else reading would overrun or misread it.
[[nodiscard]] Status expect_size(int map, size_t size, const std::string& name);

struct SteeringMaps {
  Fd services, queues, drained, drained_bytes, counts, tap_program;
  Fd socket;                           // of the node's network namespace, whoever calls later
  uint64_t* frames_page = nullptr;     // `drained`, mapped: one per direction
  uint64_t* bytes_page = nullptr;      // `drained_bytes`
  unsigned cpus = 0;

  SteeringMaps() = default;
  SteeringMaps(const SteeringMaps&) = delete;
  SteeringMaps& operator=(const SteeringMaps&) = delete;
  ~SteeringMaps();

  // Once the descriptors are there.
  [[nodiscard]] Status complete();
  // Without the routing lock, which others may hold for milliseconds.
  [[nodiscard]] bool device_exists(unsigned ifindex) const;
  // Release: whoever sees the count sees the frames delivered.
  [[nodiscard]] std::atomic_ref<uint64_t> frames(Direction direction) const;
  // Theirs, counted before them.
  [[nodiscard]] std::atomic_ref<uint64_t> bytes(Direction direction) const;
  [[nodiscard]] Result<mose_steer_policy> policy(Direction direction) const;
  [[nodiscard]] Status set_policy(Direction direction, const mose_steer_policy& value) const;
  [[nodiscard]] Result<mose_steer_queue> queue(Direction direction) const;
  // Of every CPU.
  [[nodiscard]] Result<std::vector<mose_steer_counts>> counts_of(Direction direction, uint32_t slot) const;
  [[nodiscard]] Result<uint64_t> in_tap(Direction direction) const;
  // With an empty tap. Frames written off that came in the end have been counted twice: the next hold would end so many too
  // early. Bytes of those lost have not been counted at all: it would take so many too few.
  [[nodiscard]] Status level(Direction direction) const;
};

}  // namespace mose::handover
