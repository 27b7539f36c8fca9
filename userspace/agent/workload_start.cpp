// SPDX-License-Identifier: MIT
#include "agent/workload_start.h"
#include "agent/away_network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "agent/bounds.h"
#include "agent/durable_file.h"
#include "agent/migration_paths.h"
#include "agent/node_secrets.h"
#include "agent/node_uplink.h"
#include "agent/root_devices.h"
#include "agent/workloads.h"
#include "base/log.h"
#include "base/rollback.h"
#include "handover/workload_network.h"
#include "kernel/cgroup.h"
#include "kernel/launch.h"
#include "kernel/netns.h"
#include "kernel/rooted.h"

namespace mose::agent {
namespace {

constexpr const char* kPathDefault = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* kLogName = "/stdout.log";

std::string environment_value(const WorkloadSpec& spec, const std::string& name, const std::string& otherwise) {
  std::string value = otherwise;
  for (const std::string& entry : spec.environment) {
    if (entry.starts_with(name + "=")) value = entry.substr(name.size() + 1);
  }
  return value;
}

// Where a path of the workload lies on the node: below the declared mount with the longest target, else in the root.
std::pair<std::string, std::string> place_of(const WorkloadSpec& spec, const std::string& path) {
  const WorkloadMount* best = nullptr;
  for (const WorkloadMount& mount : spec.mounts) {
    bool inside = path == mount.target || path.starts_with(mount.target + "/");
    if (inside && (best == nullptr || mount.target.size() > best->target.size())) best = &mount;
  }
  if (best == nullptr) return {spec.root, path};
  return {best->source, "." + path.substr(best->target.size())};
}

bool is_program_in(const std::string& root, const std::string& path) {
  auto file = open_in_root(root, path, O_PATH);
  struct stat info;
  return file && fstat(file->get(), &info) == 0 && S_ISREG(info.st_mode) && (info.st_mode & 0111) != 0;
}

// As a directory for open_in_root().
std::string path_of(const Fd& mount) {
  return "/proc/self/fd/" + std::to_string(mount.get());
}

constexpr const char* kNotSeen = "(what is mounted below the root on the node is not seen in it)";

bool is_program(const WorkloadSpec& spec, const std::string& path) {
  auto [place, inside] = place_of(spec, path);
  auto mount = mount_alone(place);
  return mount && is_program_in(path_of(*mount), inside);
}

bool is_device_in(const std::string& root, const std::string& path) {
  auto file = open_in_root(root, path, O_PATH);
  struct stat info;
  return file && fstat(file->get(), &info) == 0 && S_ISCHR(info.st_mode);
}

Answer<Fd> open_root(const WorkloadSpec& spec) {
  struct stat info;
  if (stat(spec.root.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return refuse(fmt::format("root {} is not a directory on this node; give --root", spec.root));
  }
  auto root = mount_alone(spec.root);
  if (!root) return refuse(fmt::format("root {} cannot be mounted for a workload: {}", spec.root, root.error().what));
  return std::move(*root);
}

// `inside` is the root's mount alone, here and below.
Answer<void> check_root(const WorkloadSpec& spec, const std::string& inside) {
  auto lacks = [&](const std::string& what, const std::string& advice) {
    return refuse(fmt::format("root {} has no {}; {} {}", spec.root, what, advice, kNotSeen));
  };
  if (!open_in_root(inside, "/proc", O_PATH | O_DIRECTORY)) {
    return lacks("directory /proc", "make it: the workload's process file system goes there");
  }
  if (!is_program_in(inside, kWorkloadInit)) {
    return lacks(fmt::format("program {}", kWorkloadInit),
                 "copy mose-init there: pid 1 of a workload must lie in its own root");
  }
  if (!open_in_root(inside, kWorkloadLogTarget, O_PATH | O_DIRECTORY)) {
    return lacks(fmt::format("directory {}", kWorkloadLogTarget), "make it: the workload's log is mounted there");
  }
  if (!is_device_in(inside, "/dev/null")) {
    return lacks("device node /dev/null",
                 "make it there with `/usr/libexec/mose/root-devices ROOT`: it is the workload's standard input");
  }
  return {};
}

Answer<void> check_mounts(const WorkloadSpec& spec, const std::string& inside) {
  for (const WorkloadMount& mount : spec.mounts) {
    struct stat source, target;
    if (stat(mount.source.c_str(), &source) != 0) {
      return refuse(
          fmt::format("mount source {} cannot be used: {}; make it or correct --mount", mount.source, strerror(errno)));
    }
    auto place = open_in_root(inside, mount.target, O_PATH);
    if (!place || fstat(place->get(), &target) != 0) {
      return refuse(fmt::format("mount target {} does not exist in root {}; make it there {}", mount.target, spec.root,
                                kNotSeen));
    }
    if (S_ISDIR(source.st_mode) != S_ISDIR(target.st_mode)) {
      return refuse(fmt::format("mount {} on {}: one is a directory, the other is not", mount.source, mount.target));
    }
    if (mount.target == kWorkloadLogTarget) {
      return refuse(fmt::format("mount target {} is where the workload's log goes; choose another", mount.target));
    }
  }
  return {};
}

Answer<void> check_devices(const WorkloadSpec& spec, StartOptions options) {
  if (options.all_capabilities) return {};
  auto devices = devices_of_the_node(spec);
  if (!devices) return refuse(devices.error().what);
  if (devices->empty()) return {};
  return refuse(fmt::format("the workload would be given {}: remove that from its root ({}), or give it all of the node with --all-capabilities", *devices,
                            spec.root == "/" ? "it lies under the node's /dev" : "or the mount"));
}

// The device of this node that has `address`, if any.
std::string local_holder(const ServiceAddress& address) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return {};
  std::string holder;
  for (ifaddrs* item = all; item != nullptr; item = item->ifa_next) {
    if (item->ifa_addr == nullptr || item->ifa_addr->sa_family != address.family) continue;
    const void* bytes = address.family == AF_INET
                            ? static_cast<const void*>(&reinterpret_cast<sockaddr_in*>(item->ifa_addr)->sin_addr)
                            : static_cast<const void*>(&reinterpret_cast<sockaddr_in6*>(item->ifa_addr)->sin6_addr);
    if (memcmp(bytes, address.bytes.data(), address.family == AF_INET ? 4 : 16) == 0) holder = item->ifa_name;
  }
  freeifaddrs(all);
  return holder;
}

Answer<void> check_addresses(const Config& config, const WorkloadSpec& spec) {
  if (config.node.bridge.empty()) {
    return refuse("this node has no bridge for workloads; set node.bridge (and node.uplink) in its configuration");
  }
  for (const ServiceAddress& address : spec.addresses) {
    std::string text = format_address(address);
    if (std::string device = local_holder(address); !device.empty()) {
      return refuse(fmt::format("address {} is already used by {} of this node; choose another", text, device));
    }
    auto holders = handover::probe_address(config.node.bridge, address);
    if (!holders) {
      return refuse(fmt::format("address {} cannot be probed on {}: {}; check node.bridge", text, config.node.bridge,
                                holders.error().what));
    }
    if (!holders->empty()) {
      return refuse(fmt::format("address {} is already used on the segment by {}; stop that one or choose another",
                                text, format_mac(holders->front())));
    }
  }
  return {};
}

std::vector<std::string> full_environment(const WorkloadSpec& spec) {
  std::vector<std::string> environment{"HOME=/"};
  environment.push_back("PATH=" + environment_value(spec, "PATH", kPathDefault));
  for (const std::string& entry : spec.environment) {
    if (!entry.starts_with("PATH=")) environment.push_back(entry);
  }
  return environment;
}

}  // namespace

Result<std::string> find_program(const WorkloadSpec& spec, const std::string& command) {
  if (command.find('/') != std::string::npos) {
    if (command.front() != '/')
      return fail(fmt::format("command {} must be an absolute path or a plain name", command));
    if (is_program(spec, command)) return command;
    return fail(fmt::format("command {} is not a program in root {}; install it there or correct the path {}", command,
                            spec.root, kNotSeen));
  }
  std::string path = environment_value(spec, "PATH", kPathDefault);
  for (size_t at = 0; at <= path.size();) {
    size_t end = std::min(path.find(':', at), path.size());
    std::string candidate = path.substr(at, end - at) + "/" + command;
    if (candidate.front() == '/' && is_program(spec, candidate)) return candidate;
    at = end + 1;
  }
  return fail(fmt::format("command {} is not found in root {} (PATH {}); install it there or give its path {}", command,
                          spec.root, path, kNotSeen));
}

Answer<WorkloadSpec> check_start(const Config& config, WorkloadSpec spec, StartOptions options) {
  if (auto status = validate(spec); !status) return refuse(status.error().what);
  if (spec.command.empty()) return refuse(fmt::format("workload {} has no command; give one after --", spec.name), 2);
  auto root = open_root(spec);
  if (!root) return std::unexpected(root.error());
  if (auto ok = hide_node_secrets(config, spec); !ok) return std::unexpected(ok.error());
  if (auto ok = check_root(spec, path_of(*root)); !ok) return std::unexpected(ok.error());
  if (auto ok = check_mounts(spec, path_of(*root)); !ok) return std::unexpected(ok.error());
  if (auto ok = check_devices(spec, options); !ok) return std::unexpected(ok.error());
  auto program = find_program(spec, spec.command[0]);
  if (!program) return refuse(program.error().what);
  spec.command[0] = *program;
  if (auto ok = check_addresses(config, spec); !ok) return std::unexpected(ok.error());
  if (spec.mac == MacAddress{}) spec.mac = mac_for(spec.addresses[0]);
  return spec;
}

Result<ProcessHandle> start_workload(const Config& config, const WorkloadSpec& spec, StartOptions options, Nanoseconds bound) {
  WorkloadPaths paths = workload_paths(config, spec.name);
  Rollback rollback;
  MOSE_TRY(make_directories(paths.log_dir));

  MOSE_ASSIGN(Cgroup cgroup, Cgroup::create(paths.cgroup));
  rollback.push([&] {
    Status status = cgroup.end(kExitBound);
    if (status) status = cgroup.remove(kExitBound);
    if (!status) {
      log::warn("a cgroup is left", {{"cgroup", paths.cgroup}, {"reason", status.error().what}});
    }
  });
  MOSE_ASSIGN(auto present, cgroup.procs());
  if (!present.empty()) {
    rollback.commit();  // not ours to kill
    return fail(fmt::format("cgroup {} has processes already; stop them or use another name", paths.cgroup));
  }
  MOSE_TRY(cgroup.thaw());

  MOSE_ASSIGN(Fd net, create_service_netns());
  MOSE_ASSIGN(Fd ipc, new_namespace(NamespaceKind::ipc));
  MOSE_ASSIGN(Fd uts, new_namespace(NamespaceKind::uts));
  MOSE_TRY(set_hostname(uts.get(), spec.name));

  // Whoever starts it here anew no longer wants its packets sent to where it once went.
  if (away_network_kept(config, spec.name)) MOSE_TRY(end_network(config, spec.name));
  auto network = handover::WorkloadNetwork::create(network_config(config, spec), net.get());
  if (!network) return context("network of " + spec.name, network.error());
  rollback.push([&] { (void)handover::WorkloadNetwork::destroy(spec.name, pin_root(config)); });

  WorkloadLaunch request;
  request.net_fd = net.get();
  request.ipc_fd = ipc.get();
  request.uts_fd = uts.get();
  request.cgroup_fd = cgroup.fd();
  request.root = spec.root;
  request.all_capabilities = options.all_capabilities;
  for (const WorkloadMount& mount : spec.mounts) request.binds.push_back({mount.source, mount.target, mount.read_only});
  request.binds.push_back({paths.log_dir, kWorkloadLogTarget, false});
  request.log = std::string(kWorkloadLogTarget) + kLogName;
  request.command = {kWorkloadInit};
  request.command.insert(request.command.end(), spec.command.begin(), spec.command.end());
  request.environment = full_environment(spec);
  // In service before it runs: what it sends first must not wait for a retransmission.
  if (auto status = network->open(); !status) return context("network of " + spec.name, status.error());
  MOSE_ASSIGN(ProcessHandle init, launch_workload(request, bound));
  rollback.commit();
  return init;
}

Status stop_workload(const Config& config, const WorkloadSpec& spec, const ProcessHandle& init, Nanoseconds grace) {
  if (init.valid() && init.signal(SIGTERM)) (void)init.wait_ended(grace);
  return remove_workload_resources(config, spec, kExitBound);
}

Status remove_workload_resources(const Config& config, const WorkloadSpec& spec, Nanoseconds bound,
                                 LeftNetwork network) {
  WorkloadPaths paths = workload_paths(config, spec.name);
  Status result;
  auto keep = [&](Status status) {
    if (!status && result) result = status;
  };
  // The processes first: nothing may use a network that is half removed.
  auto cgroup = Cgroup::open(paths.cgroup);
  if (cgroup) {
    const Status ended = cgroup->end(bound);
    keep(ended);
    keep(cgroup->thaw());  // killed while frozen: it goes, but a group that is used again must not be frozen
    keep(cgroup->remove(ended ? bound : Nanoseconds{}));
  } else if (cgroup.error().code != ENOENT) {
    keep(std::unexpected(cgroup.error()));
  }
  if (network == LeftNetwork::ends || !away_network_kept(config, spec.name)) {
    keep(end_network(config, spec.name));
    keep(remove_tree(paths.runtime_dir));
  }
  if (!result) return context("clean up after " + spec.name, result.error());
  return {};
}

}  // namespace mose::agent
