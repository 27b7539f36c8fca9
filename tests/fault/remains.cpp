// SPDX-License-Identifier: MIT
// What is to be seen on the nodes after a case: what is left of it, and the connections as they stand.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "bed.h"
#include "lab/child_process.h"
#include "lab/node.h"
#include "lab/topology.h"

namespace mose::test {
namespace {

namespace fs = std::filesystem;

constexpr Nanoseconds kProgramBound = std::chrono::seconds(5);

// Everything below a directory whose contents may vanish meanwhile.
std::vector<fs::path> walk(const std::string& directory) {
  std::vector<fs::path> out;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(directory, error); !error && it != fs::end(it); it.increment(error)) {
    out.push_back(it->path());
  }
  return out;
}

bool directory_exists(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

void add_names(std::vector<std::string>& out, const std::string& what, const std::string& directory) {
  for (const fs::path& path : walk(directory)) {
    if (path.parent_path() == directory) out.push_back(what + " " + path.filename().string());
  }
}

std::string comm(const std::string& pid) {
  std::string text = read_file("/proc/" + pid + "/comm").value_or("");
  return text.substr(0, text.find('\n'));
}

std::string seen_from(const lab::Place& place, std::vector<std::string> command) {
  lab::ProgramSpec spec;
  spec.argv = std::move(command);
  spec.place = &place;
  auto result = lab::run_program(spec, "", kProgramBound);
  return result ? result->out : result.error().what + '\n';
}

}  // namespace

std::vector<int> FaultBed::processes(const std::string& node) const {
  std::vector<int> out;
  for (const fs::path& path : walk(state_.cgroup + "/" + node)) {
    if (path.filename() != "cgroup.procs") continue;
    std::istringstream pids(read_file(path).value_or(""));
    for (int pid; pids >> pid;) out.push_back(pid);
  }
  return out;
}

std::vector<int> FaultBed::crius(const std::string& node) const {
  std::vector<int> out = processes(node);
  std::erase_if(out, [](int pid) { return comm(std::to_string(pid)) != "criu"; });
  return out;
}

std::vector<int> FaultBed::pager_processes(const std::string& node, bool guardians) const {
  std::vector<int> out;
  for (int process : processes(node)) {
    const std::string pid = std::to_string(process);
    if (comm(pid) != (guardians ? "mose-guardian" : "mose-pager")) continue;
    std::string stat = read_file("/proc/" + pid + "/stat").value_or("");
    size_t after = stat.rfind(')');
    int parent = after == std::string::npos || after + 4 > stat.size() ? 0 : std::atoi(stat.c_str() + after + 4);
    // A guardian is a clone of its pager, and has its name for a moment.
    if (guardians || comm(std::to_string(parent)) != "mose-pager") out.push_back(process);
  }
  return out;
}

std::vector<std::string> FaultBed::leftovers(const std::string& node, bool owner) {
  std::vector<std::string> out;
  auto state = workload_state(node);
  std::string seen = state ? *state : state.error().what;
  if (owner ? seen != "running" : !seen.empty() && seen != "away") out.push_back("a workload that is " + seen);
  add_names(out, "migration directory", root(node) + "/run/mose/migrations");
  add_names(out, "journal", root(node) + "/var/lib/mose/journal");
  if (!owner && directory_exists(cgroup(node))) out.push_back("cgroup " + cgroup(node));
  for (const fs::path& path : walk(state_.cgroup + "/" + node)) {
    if (path.filename() != "cgroup.procs" || path.parent_path() == cgroup(node)) continue;
    std::istringstream pids(read_file(path).value_or(""));
    for (std::string pid; pids >> pid;) {
      std::string name = comm(pid);
      if (!name.empty() && name != "mosed" && name != "mose-lab-keeper") out.push_back("process " + pid + " " + name);
    }
  }
  lab::ProgramSpec spec;
  spec.argv = {"/usr/sbin/ip", "-n", names_.netns(node), "-brief", "link"};
  if (::access(spec.argv[0].c_str(), X_OK) != 0) spec.argv[0] = "/sbin/ip";
  if (auto result = lab::run_program(spec, "", kProgramBound)) {
    std::istringstream lines(result->out);
    for (std::string line; std::getline(lines, line);) {
      std::string name = line.substr(0, line.find_first_of(" @"));
      bool known = name == "lo" || name == lab::kBridge || name == lab::kUplink || (owner && name.starts_with("mv"));
      if (!known) out.push_back("device " + name);
    }
  }
  if (!owner) {
    for (const fs::path& path : walk(root(node) + "/sys/fs/bpf")) {
      if (!directory_exists(path) && path.extension() != ".debug") out.push_back("pin " + path.filename().string());  // the kernel's own
    }
    // An open network namespace keeps a dead workload's sockets and address.
    std::string fds = "/proc/" + std::to_string(state_.agents.at(node).pid) + "/fd";
    for (const fs::path& path : walk(fds)) {
      std::error_code error;
      if (fs::read_symlink(path, error).string().starts_with("net:[")) out.push_back("open network namespace in mosed");
    }
  }
  return out;
}

std::string FaultBed::connections() const {
  std::vector<std::pair<std::string, std::string>> namespaces{{"client", names_.netns_path("client")}};
  for (const char* node : lab::kNodes) {
    std::istringstream pids(read_file(cgroup(node) + "/cgroup.procs").value_or(""));
    std::string pid;
    if (pids >> pid) namespaces.emplace_back(node, "/proc/" + pid + "/ns/net");
  }
  std::string out;
  for (const auto& [who, path] : namespaces) {
    out += "-- " + who + '\n';
    auto place = lab::Place::of_netns(path);
    if (!place) continue;
    out += seen_from(*place, {"ss", "-tneim"});
    // Whether a request that the kernel has acknowledged got stuck in the service itself.
    if (who != "client") out += seen_from(*place, {"redis-cli", "-h", lab::kServiceAddress, "client", "list"});
  }
  return out;
}

}  // namespace mose::test
