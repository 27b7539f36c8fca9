// SPDX-License-Identifier: MIT
#include "lab/inventory.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/fd.h"
#include "lab/lab_processes.h"
#include "lab/names.h"

namespace mose::lab {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::array<const char*, 8> kNamespaces = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};

// Of one node: adds what it finds.
class Finder {
 public:
  Finder(std::string node, Inventory& out) : node_(std::move(node)), out_(out) {}

  void add(const std::string& kind, std::string what) { ++out_[{node_, kind, std::move(what)}]; }

  // All names below `top`, without going into other file systems: a workload's files are its own.
  void add_tree(const std::string& kind, const std::string& top, const std::string& shown) {
    struct stat here {};
    if (::stat(top.c_str(), &here) != 0) return;
    std::error_code error;
    fs::recursive_directory_iterator it(top, fs::directory_options::skip_permission_denied, error), end;
    for (; !error && it != end; it.increment(error)) {
      struct stat at {};
      if (::lstat(it->path().c_str(), &at) != 0) continue;
      if (at.st_dev != here.st_dev) {
        it.disable_recursion_pending();
        continue;
      }
      add(kind, shown + it->path().string().substr(top.size()));
    }
  }

  void add_cgroups(const std::string& top) {
    std::error_code error;
    fs::recursive_directory_iterator it(top, error), end;
    for (; !error && it != end; it.increment(error)) {
      if (it->is_directory(error)) add("cgroup", it->path().string().substr(top.size() + 1));
    }
  }

  // A namespace lives by a process in it, a descriptor or a mount.
  void add_namespaces(const std::vector<LabProcess>& processes) {
    std::set<std::string> seen;  // "net:[4026532000]"
    for (const LabProcess& p : processes) {
      std::string proc = "/proc/" + std::to_string(p.pid);
      for (const char* kind : kNamespaces) {
        std::string link = link_text(proc + "/ns/" + kind);
        if (link.empty()) continue;
        bool first = seen.insert(link).second;
        if (first && std::string_view(kind) == "mnt") add_mounts(proc, seen);
      }
      add_held(proc + "/fd", seen);
    }
    for (const std::string& name : seen) add("namespace", name.substr(0, name.find(':')));
  }

  void add_devices(pid_t keeper) {
    auto text = read_file("/proc/" + std::to_string(keeper) + "/net/dev");
    std::istringstream lines(text ? *text : "");
    for (std::string line; std::getline(lines, line);) {
      size_t end = line.find(':'), begin = line.find_first_not_of(' ');
      if (end != std::string::npos) add("device", line.substr(begin, end - begin));
    }
  }

 private:
  static std::string link_text(const std::string& path) {
    std::error_code error;
    auto target = fs::read_symlink(path, error);
    return error ? std::string() : target.string();
  }

  static bool is_namespace(const std::string& link) {
    for (const char* kind : kNamespaces) {
      if (link.starts_with(std::string(kind) + ":[")) return true;
    }
    return false;
  }

  void add_held(const std::string& directory, std::set<std::string>& seen) {
    std::error_code error;
    fs::directory_iterator it(directory, error), end;
    for (; !error && it != end; it.increment(error)) {
      std::string link = link_text(it->path());
      if (is_namespace(link)) seen.insert(link);
    }
  }

  // Point and type of each mount of that process's namespace; a mounted namespace is one too.
  void add_mounts(const std::string& proc, std::set<std::string>& namespaces) {
    auto text = read_file(proc + "/mountinfo");
    std::istringstream lines(text ? *text : "");
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string id, parent, device, root, point, word, type;
      words >> id >> parent >> device >> root >> point;
      while (words >> word && word != "-") {
      }
      words >> type;
      add("mount", fmt::format("{} {}", point, type));
      if (type == "nsfs") namespaces.insert(root);
    }
  }

  std::string node_;
  Inventory& out_;
};

}  // namespace

Result<Inventory> take_inventory(const LabState& state) {
  Inventory out;
  for (const char* node : kNodes) {
    auto keeper = state.keepers.find(node);
    if (keeper == state.keepers.end()) return fail("node " + std::string(node) + " does not run");
    Finder finder(node, out);
    MOSE_ASSIGN(auto processes, node_processes(state, node));
    for (const LabProcess& p : processes) finder.add("process", p.name);
    finder.add_namespaces(processes);
    finder.add_cgroups(state.cgroup + "/" + node);
    finder.add_devices(keeper->second.pid);
    std::string root = "/proc/" + std::to_string(keeper->second.pid) + "/root";
    finder.add_tree("pin", root + "/sys/fs/bpf/", "/sys/fs/bpf/");
    for (const char* top : {"/", "/run/", "/tmp/"}) finder.add_tree("file", root + top, top);
  }
  return out;
}

Result<Inventory> settled_inventory(const LabState& state) {
  constexpr int kTries = 20;
  constexpr useconds_t kApartUs = 500'000;
  MOSE_ASSIGN(auto last, take_inventory(state));
  for (int i = 0; i < kTries; ++i) {
    ::usleep(kApartUs);
    MOSE_ASSIGN(auto now, take_inventory(state));
    if (now == last) break;
    last = std::move(now);
  }
  return last;
}

std::string kept_reason(const Item& item) {
  struct Kept {
    const char *kind, *what, *reason;
  };
  static constexpr Kept kKept[] = {
      {"cgroup", "workloads", "the parent of workloads' groups"},
      {"pin", "/sys/fs/bpf/mose", "the directory of pins"},
      {"file", "/run/mose/migrations", "the directory of migrations that are under way"},
      {"file", "/var/lib/mose/history.jsonl", "what mose history shows"},
  };
  static constexpr Kept kKeptOfWorkload[] = {
      {"file", "", "the workload's log outlives it"},
      {"file", "/log", "the workload's log outlives it"},
      {"file", "/log/stdout.log", "the workload's log outlives it"},
      {"file", ".json", "where the workload went to, for mose workloads"},
  };
  for (const Kept& kept : kKept) {
    if (item.kind == kept.kind && item.what == kept.what) return kept.reason;
  }
  for (const char* workload : {kWorkload, kNaiveProtection}) {
    const std::string own = std::string("/var/lib/mose/workloads/") + workload;
    for (const Kept& kept : kKeptOfWorkload) {
      if (item.kind == kept.kind && item.what == own + kept.what) return kept.reason;
    }
  }
  return {};
}

bool is_clean(const Inventory& leftovers) {
  return std::all_of(leftovers.begin(), leftovers.end(),
                     [](const auto& entry) { return !kept_reason(entry.first).empty(); });
}

Inventory additions(const Inventory& before, const Inventory& after) {
  Inventory out;
  for (const auto& [item, count] : after) {
    auto it = before.find(item);
    uint64_t had = it == before.end() ? 0 : it->second;
    if (count > had) out[item] = count - had;
  }
  return out;
}

Json leftovers_json(const Inventory& leftovers) {
  Json out = Json::object();
  for (const char* kind : kKinds) out[kind] = 0;
  Json items = Json::array();
  for (const auto& [item, count] : leftovers) {
    std::string kept = kept_reason(item);
    if (kept.empty()) out[item.kind] = out[item.kind].get<uint64_t>() + count;
    items.push_back({{"node", item.node},
                     {"kind", item.kind},
                     {"what", item.what},
                     {"count", count},
                     {"kept", kept.empty() ? Json(nullptr) : Json(kept)}});
  }
  out["items"] = items;
  return out;
}

}  // namespace mose::lab
