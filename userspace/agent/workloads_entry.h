// SPDX-License-Identifier: MIT
#pragma once

#include <optional>

#include "agent/workload_record.h"
#include "agent/workloads.h"

namespace mose::agent {

// What the registry keeps of a workload beyond what others see; for the files of class Workloads only.
struct Workloads::Entry {
  Workload workload;
  bool watched = false;
  bool busy = false;  // a worker starts or stops it
  bool unsaved = false;  // its record on the disk is not what is known of it
  std::optional<WorkloadDescription> description;
  std::string end;  // of its process 1, once that has been looked for
};

}  // namespace mose::agent
