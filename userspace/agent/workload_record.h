// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "agent/workloads.h"
#include "base/result.h"

// The texts of a workload on the disk: its record (JSON, ours) and its description (TOML, the operator's).
namespace mose::agent {

struct WorkloadRecord {
  Workload workload;        // without `init`
  pid_t pid = 0;            // 0: no process
  uint64_t start_time = 0;  // names the process together with pid
  std::string boot;         // boot id: after a reboot no pid means anything
};
[[nodiscard]] std::string encode_record(const WorkloadRecord& record);
[[nodiscard]] Result<WorkloadRecord> decode_record(const std::string& json);

struct WorkloadDescription {
  WorkloadSpec spec;
  std::string cgroup;  // one of both
  pid_t pid = 0;
};
// Errors name file:line. `name` is the workload's: the file's name without .toml.
[[nodiscard]] Result<WorkloadDescription> parse_description(const std::string& name, const std::string& text,
                                                            const std::string& file);

[[nodiscard]] std::string boot_id();

}  // namespace mose::agent
