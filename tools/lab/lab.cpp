// SPDX-License-Identifier: MIT
#include "lab/lab.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <map>

#include "base/log.h"
#include "base/rollback.h"
#include "kernel/cgroup.h"
#include "lab/agent.h"
#include "lab/link_check.h"
#include "lab/link_process.h"
#include "lab/node.h"
#include "lab/node_root.h"
#include "lab/topology.h"
#include "move/authority.h"

namespace mose::lab {
namespace {

constexpr Nanoseconds kTreeBound = std::chrono::seconds(10);

Status make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return fail_errno("mkdir " + path, error.value());
  return {};
}

// Children before parents: a cgroup with children cannot be removed.
Status remove_cgroup(const std::string& path) {
  if (::access(path.c_str(), F_OK) != 0) return {};
  // cgroup.kill reaches everything below, frozen or not.
  MOSE_ASSIGN(auto top, Cgroup::open(path));
  MOSE_TRY(top.kill());
  MOSE_TRY(top.wait_empty(kTreeBound));
  std::vector<std::string> directories{path};
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path, error)) {
    if (entry.is_directory(error)) directories.push_back(entry.path());
  }
  for (auto it = directories.rbegin(); it != directories.rend(); ++it) {
    if (::rmdir(it->c_str()) != 0 && errno != ENOENT) return fail_errno("rmdir " + *it);
  }
  return {};
}

// Takes down what the record names. Goes on after a failure, and gives the first.
Status take_down(const Names& names, const LabState& state) {
  Status first;
  auto keep = [&](const char* what, Status s) {
    if (!s && first) first = context(what, s.error());
  };
  if (!state.cgroup.empty()) keep("processes", remove_cgroup(state.cgroup));
  if (!state.netns.empty()) keep("network", take_down_topology(names));
  if (!state.disk.empty()) {
    keep("disk", remove_tree(state.disk));
    ::rmdir(kDiskRoot);  // only when no other lab is left
    if (state.made_disk_parent) ::rmdir(kDiskParent);
  }
  if (first) remove_state(names);
  return first;
}

// Things with our names that no record speaks of are not ours to remove.
Status refuse_foreign(const Names& names, const std::string& cgroup) {
  for (const char* place : kPlaces) {
    if (netns_exists(names, place)) {
      return fail("network namespace " + names.netns(place) + " exists and was not made by the lab; remove it or use another --name");
    }
  }
  for (const std::string& path : {cgroup, names.disk()}) {
    if (::access(path.c_str(), F_OK) == 0) return fail(path + " exists and was not made by the lab; remove it or use another --name");
  }
  return {};
}

using Certificates = std::map<std::string, std::string>;

// By node: files of its certificates. Nobody keeps the authority's key.
Result<std::map<std::string, Certificates>> make_certificates(const std::string& lab) {
  constexpr int64_t kDayS = 24 * 3600;
  const int64_t now_s = std::time(nullptr), begins = now_s - kDayS, ends = now_s + 365 * kDayS;
  MOSE_ASSIGN(auto authority, move::Authority::create("lab " + lab, begins, ends));
  MOSE_ASSIGN(auto own, authority.own_pem());
  MOSE_ASSIGN(auto revoked, authority.new_list());
  std::map<std::string, Certificates> out;
  for (const std::string node : kNodes) {
    MOSE_ASSIGN(auto issued, authority.issue({node, {}, begins, ends}));
    out[node] = {{"ca.crt", own.certificate}, {node + ".crt", issued.certificate}, {node + ".key", issued.key}, {"revoked.pem", revoked}};
  }
  return out;
}

Status make_lab(const Names& names, const LabOptions& options, LabState& state, const std::string& mount) {
  for (const char* node : kNodes) MOSE_TRY(make_directories(system_cgroup(mount, names, node)));
  MOSE_TRY(make_namespaces(names));
  if (options.link_rtt_ms) {
    std::string cgroup = mount + "/" + names.cgroup() + "/link";
    MOSE_TRY(make_directories(cgroup));
    MOSE_ASSIGN(state.link, start_link(names, link_shape(state), cgroup));
    MOSE_TRY(save_state(names, state));
  }
  MOSE_TRY(make_links(names, options.link_rtt_ms.has_value()));
  if (options.steer.starts_with("xdp")) MOSE_TRY(prepare_for_xdp(names));
  if (options.link_rate_mbit && !options.link_rtt_ms) MOSE_TRY(shape_links(names, *options.link_rate_mbit));
  std::map<std::string, Certificates> certificates;
  if (options.tls) {
    MOSE_ASSIGN(certificates, make_certificates(options.lab));
  }
  for (const char* node : kNodes) {
    MOSE_TRY(make_directories(names.node_root(node)));
    MOSE_TRY(fill_node_root({names.node_root(node), node, agent_config(names, node, options.steer, options.tls), certificates[node]}));
    MOSE_ASSIGN(state.keepers[node], start_keeper(names, node, mount));
    MOSE_TRY(save_state(names, state));
  }
  if (options.agents) {
    for (const char* node : kNodes) {
      MOSE_ASSIGN(state.agents[node], start_agent(names, state, node));
      MOSE_TRY(save_state(names, state));
    }
  }
  state.complete = true;
  return save_state(names, state);
}

bool whole(const LabState& state, bool agents) {
  if (!state.complete || (state.run && !is_alive(*state.run))) return false;
  if (state.link_rtt_ms && (!state.link || !is_alive(*state.link))) return false;
  for (const char* node : kNodes) {
    auto keeper = state.keepers.find(node);
    if (keeper == state.keepers.end() || !is_alive(keeper->second)) return false;
    auto agent = state.agents.find(node);
    if (agents && (agent == state.agents.end() || !is_alive(agent->second))) return false;
  }
  return true;
}

}  // namespace

Result<LabState> up(const LabOptions& options) {
  MOSE_TRY(check_lab_name(options.lab));
  if (::geteuid() != 0) return fail_errno("a lab needs root", EPERM);
  Names names(options.lab);
  MOSE_ASSIGN(std::string mount, cgroup_mount());
  MOSE_ASSIGN(auto before, load_state(names));
  if (before && whole(*before, options.agents) && before->link_rate_mbit == options.link_rate_mbit &&
      before->link_rtt_ms == options.link_rtt_ms && before->steer == options.steer && before->tls == options.tls) {
    return *before;
  }
  if (before) {
    log::info("cleaning what is left of the lab", {{"lab", options.lab}});
    MOSE_TRY(take_down(names, *before));
  }
  LabState state;
  state.lab = options.lab;
  state.cgroup = mount + "/" + names.cgroup();
  state.disk = names.disk();
  state.made_disk_parent = ::access(kDiskParent, F_OK) != 0;
  state.link_rate_mbit = options.link_rate_mbit;
  state.link_rtt_ms = options.link_rtt_ms;
  state.steer = options.steer;
  state.tls = options.tls;
  MOSE_TRY(refuse_foreign(names, state.cgroup));
  for (const char* place : kPlaces) state.netns.push_back(names.netns(place));
  MOSE_TRY(save_state(names, state));
  Rollback rollback;
  rollback.push([&] {
    if (auto s = take_down(names, state); !s) log::error("the half-made lab could not be removed: " + s.error().what);
  });
  MOSE_TRY(make_lab(names, options, state, mount));
  rollback.commit();
  return state;
}

Status down(const Names& names) {
  MOSE_ASSIGN(auto state, load_state(names));
  if (!state) return {};
  return take_down(names, *state);
}

Status restart_agent(const Names& names, LabState& state, const std::string& node) {
  MOSE_TRY(stop_agent(state, node));
  MOSE_ASSIGN(state.agents[node], start_agent(names, state, node));
  return save_state(names, state);
}

bool LabStatus::healthy() const {
  bool all = exists && complete;
  for (const NodeStatus& n : nodes) all = all && n.keeper && n.agent && n.agent_answers;
  return all;
}

Result<LabStatus> status(const Names& names) {
  LabStatus out;
  out.lab = names.lab();
  MOSE_ASSIGN(auto state, load_state(names));
  if (!state) return out;
  out.exists = true;
  out.complete = state->complete;
  out.leftover = state->run && !is_alive(*state->run);
  for (const char* name : kNodes) {
    NodeStatus node;
    node.node = name;
    node.address = node_address(name);
    if (auto it = state->keepers.find(name); it != state->keepers.end()) {
      node.keeper = is_alive(it->second);
      node.keeper_pid = it->second.pid;
    }
    if (auto it = state->agents.find(name); it != state->agents.end()) {
      node.agent = is_alive(it->second);
      node.agent_pid = it->second.pid;
      node.agent_answers = node.agent && agent_answers(*state, name);
    }
    out.nodes.push_back(node);
  }
  return out;
}

}  // namespace mose::lab
