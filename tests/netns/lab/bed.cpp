// SPDX-License-Identifier: MIT
#include "bed.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <sstream>

#include "kernel/cgroup.h"
#include "kernel/spawn.h"
#include "lab/node.h"
#include "support/support.h"

namespace mose::test {
namespace {

void list_entries(const std::string& directory, const std::string& part, std::set<std::string>& out) {
  DIR* dir = ::opendir(directory.c_str());
  if (!dir) return;
  while (dirent* entry = ::readdir(dir)) {
    std::string name = entry->d_name;
    if (name.find(part) != std::string::npos) out.insert(directory + "/" + name);
  }
  ::closedir(dir);
}

}  // namespace

Fd take_turn(const std::string& lab) {
  if (::geteuid() != 0) skip_process("a lab needs root");
  if (!cgroup_mount()) skip_process("no cgroup version 2");
  if (!helper_path("mose-lab-keeper")) skip_process("mose-lab-keeper is not built");
  auto file = open_file("/var/tmp/mose-test-" + lab + ".lock", O_RDWR | O_CREAT, 0600);
  if (!file) skip_process("no lock file in /var/tmp");
  while (::flock(file->get(), LOCK_EX) < 0 && errno == EINTR) {
  }
  return std::move(*file);
}

void need_criu_and_redis() {
  const char* prefix = std::getenv("MOSE_PREFIX");
  std::string criu = std::string(prefix ? prefix : "/opt/mose") + "/criu/bin/criu";
  if (::access(criu.c_str(), X_OK) != 0) skip_process("no CRIU at " + criu + "; run tools/get-deps");
  if (::access("/usr/bin/redis-server", X_OK) != 0) skip_process("redis-server is not installed");
}

std::set<std::string> traces(const std::string& lab) {
  lab::Names names(lab);
  std::set<std::string> out;
  list_entries(lab::kNetnsRoot, "mose-lab-" + lab + "-", out);
  list_entries(lab::kStateRoot, lab + ".", out);
  if (auto mount = cgroup_mount()) list_entries(*mount, names.cgroup(), out);
  if (::access(names.disk().c_str(), F_OK) == 0) out.insert(names.disk());
  auto mounts = read_file("/proc/self/mountinfo");
  std::istringstream lines(mounts ? *mounts : "");
  for (std::string line; std::getline(lines, line);) {
    if (line.find("mose-lab-" + lab + "-") != std::string::npos || line.find(names.disk()) != std::string::npos) out.insert("mount " + line);
  }
  DIR* dir = ::opendir("/proc");
  while (dirent* entry = dir ? ::readdir(dir) : nullptr) {
    if (!std::isdigit(static_cast<unsigned char>(entry->d_name[0]))) continue;
    // A zombie has ended: it waits for the machine's first process, and its command line is empty.
    auto words = read_file(std::string("/proc/") + entry->d_name + "/cmdline");
    if (!words || words->empty()) continue;
    auto cgroup = read_file(std::string("/proc/") + entry->d_name + "/cgroup");
    if (cgroup && cgroup->find("/" + names.cgroup() + "/") != std::string::npos) out.insert(std::string("process ") + entry->d_name);
  }
  if (dir) ::closedir(dir);
  return out;
}

lab::LabOptions bare_lab(const std::string& lab) {
  lab::LabOptions options;
  options.lab = lab;
  options.agents = false;
  return options;
}

Result<lab::ProgramResult> run_on(const lab::LabState& state, const std::string& node, std::vector<std::string> words, Nanoseconds bound) {
  MOSE_ASSIGN(auto place, lab::open_node(state, node));
  lab::ProgramSpec spec;
  spec.argv = std::move(words);
  spec.place = &place.place;
  spec.cgroup = place.cgroup;
  return lab::run_program(spec, "", bound);
}

}  // namespace mose::test
