// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "agent/config.h"
#include "kernel/process.h"
#include "model/workload.h"

namespace mose::control::v1 {
class CheckResult;
}

namespace mose::agent {

// `mose check`: what this host can do, what is missing and what is lost without it. Blocking (about a second, mostly
// the proof with CRIU): for a worker.
void check_host(const Config& config, control::v1::CheckResult& result);

// Everything that ties a running workload to this node, and a declaration too long for PREPARE, each a sentence with the
// thing, the reason and what to try: the source's part of preflight. Blocking, touches nothing. Empty: nothing stands in the
// way here.
[[nodiscard]] std::vector<std::string> check_workload(const WorkloadSpec& spec, const ProcessHandle& init,
                                                      const std::string& cgroup);

}  // namespace mose::agent
