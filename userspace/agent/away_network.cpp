// SPDX-License-Identifier: MIT
#include "agent/away_network.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "agent/node_uplink.h"
#include "agent/workloads.h"
#include "base/fd.h"
#include "handover/workload_network.h"

namespace mose::agent {
namespace {

std::string file_of(const Config& config, const std::string& workload) {
  return workload_paths(config, workload).runtime_dir + "/away.net";
}

}  // namespace

Status keep_away_network(const Config& config, const std::string& workload, int netns) {
  if (away_network_kept(config, workload)) return {};
  const std::string file = file_of(config, workload);
  std::error_code error;
  std::filesystem::create_directories(workload_paths(config, workload).runtime_dir, error);
  Fd made(open(file.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
  if (!made) return fail_errno("make " + file);
  const std::string from = "/proc/self/fd/" + std::to_string(netns);
  if (mount(from.c_str(), file.c_str(), nullptr, MS_BIND, nullptr) == 0) return {};
  const int code = errno;
  unlink(file.c_str());
  return fail_errno("keep a network namespace at " + file, code);
}

bool away_network_kept(const Config& config, const std::string& workload) {
  return access(file_of(config, workload).c_str(), F_OK) == 0;
}

Status end_network(const Config& config, const std::string& workload) {
  MOSE_TRY(handover::WorkloadNetwork::destroy(workload, pin_root(config)));
  const std::string file = file_of(config, workload);
  if (umount2(file.c_str(), MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT)
    return fail_errno("release " + file);
  if (unlink(file.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) return fail_errno("remove " + file);
  return {};
}

}  // namespace mose::agent
