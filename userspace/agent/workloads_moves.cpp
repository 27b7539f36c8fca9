// SPDX-License-Identifier: MIT
// What a migration does to the registry of workloads.
#include <fmt/format.h>

#include <utility>

#include "agent/workloads_entry.h"
#include "handover/workload_network.h"

namespace mose::agent {

Answer<void> Workloads::begin_move(const std::string& name, const MigrationId& id) {
  Entry* present = entry(name);
  if (present == nullptr) return refuse(fmt::format("no workload named {} is known here; see mose workloads", name), 2);
  Workload& workload = present->workload;
  if (workload.state != WorkloadState::running || !workload.init) {
    return refuse(fmt::format("workload {} is {}, not running; only a running one can be moved", name,
                              to_string(workload.state)));
  }
  workload.migration = id.hex();
  auto begun = begin_change(*present, WorkloadState::moving, fmt::format("workload {} is moving", name));
  if (begun) return {};
  workload.migration.clear();
  return refuse(begun.error().what);
}

Status Workloads::stay(const std::string& name) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::moving) {
    return fail(fmt::format("workload {} is not moving", name));
  }
  Workload& workload = present->workload;
  workload.migration.clear();
  if (workload.init && workload.init->alive()) {
    return change(*present, WorkloadState::running, fmt::format("workload {} stays here", name));
  }
  unwatch(*present);
  workload.exit_status = end_of(*present) + " during a migration";
  workload.init.reset();
  return change(*present, WorkloadState::exited, fmt::format("workload {} has ended: {}", name, workload.exit_status));
}

Status Workloads::leave(const std::string& name, const std::string& node) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::moving) {
    return fail(fmt::format("workload {} is not moving", name));
  }
  unwatch(*present);
  Workload& workload = present->workload;
  if (workload.init) (void)workload.init->reap(Nanoseconds(0));
  workload.init.reset();
  workload.migration.clear();
  workload.node = node;
  return change(*present, WorkloadState::away, fmt::format("workload {} is on node {} now", name, node));
}

Answer<void> Workloads::begin_arrival(const WorkloadSpec& spec, const MigrationId& id) {
  if (auto status = validate(spec); !status) return refuse(status.error().what);
  if (auto ok = free_name(spec.name); !ok) return ok;
  // The probe of the segment would not tell: the same address has the same MAC, whoever uses it.
  if (auto ok = free_addresses(spec); !ok) return ok;
  if (Entry* present = entry(spec.name)) unwatch(*present);
  auto arriving = std::make_unique<Entry>();
  WorkloadPaths paths = workload_paths(config_, spec.name);
  Workload& workload = arriving->workload;
  workload.spec = spec;
  workload.origin = WorkloadOrigin::moved;
  workload.cgroup = paths.cgroup;
  workload.host_device = handover::host_device_name(spec.name);
  workload.log = paths.log_dir + "/stdout.log";
  workload.migration = id.hex();
  std::unique_ptr<Entry> before = std::exchange(entries_[spec.name], std::move(arriving));
  auto begun = begin_change(*entries_[spec.name], WorkloadState::arriving, fmt::format("workload {} is arriving", spec.name));
  if (begun) return {};
  if (before) {
    before->unsaved = true;
    entries_[spec.name] = std::move(before);
  } else {
    erase(spec.name);
  }
  return refuse(begun.error().what);
}

Status Workloads::arrived(const std::string& name, ProcessHandle init) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::arriving) {
    return fail(fmt::format("workload {} is not arriving", name));
  }
  present->workload.init = std::make_shared<const ProcessHandle>(std::move(init));
  present->workload.migration.clear();
  Status written = change(*present, WorkloadState::running, fmt::format("workload {} runs here", name));
  watch(*present);
  return written;
}

void Workloads::forget_arrival(const std::string& name) {
  Entry* present = entry(name);
  if (present == nullptr || present->workload.state != WorkloadState::arriving) return;
  const Workload last = present->workload;  // the name may be that of the entry itself
  erase(last.spec.name);
  listener_(last, fmt::format("workload {} did not arrive", last.spec.name));
}

}  // namespace mose::agent
