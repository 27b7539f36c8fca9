// SPDX-License-Identifier: MIT
#include "lab/state.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/directory.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;
constexpr useconds_t kLockPollUs = 50'000;

std::optional<ProcessRecord> process_from(const Json& p) {
  if (!p.is_object() || !p.contains("pid") || !p["pid"].is_number_integer()) return std::nullopt;
  if (!p.contains("start_time") || !p["start_time"].is_number_integer()) return std::nullopt;
  return ProcessRecord{p["pid"].get<pid_t>(), p["start_time"].get<uint64_t>()};
}

Json processes(const std::map<std::string, ProcessRecord>& in) {
  Json out = Json::object();
  for (const auto& [node, p] : in) out[node] = {{"pid", p.pid}, {"start_time", p.start_time}};
  return out;
}

std::map<std::string, ProcessRecord> processes_from(const Json& in, const char* key) {
  std::map<std::string, ProcessRecord> out;
  auto it = in.find(key);
  if (it == in.end() || !it->is_object()) return out;
  for (const auto& [node, p] : it->items()) {
    if (auto process = process_from(p)) out[node] = *process;
  }
  return out;
}

std::string text_of(const Json& in, const char* key) {
  auto it = in.find(key);
  return it != in.end() && it->is_string() ? it->get<std::string>() : "";
}

std::optional<double> number_of(const Json& in, const char* key) {
  auto it = in.find(key);
  return it != in.end() && it->is_number() ? std::optional(it->get<double>()) : std::nullopt;
}

}  // namespace

std::string to_json(const LabState& s) {
  Json out = {{"lab", s.lab},
              {"complete", s.complete},
              {"netns", s.netns},
              {"cgroup", s.cgroup},
              {"disk", s.disk},
              {"made_disk_parent", s.made_disk_parent},
              {"keepers", processes(s.keepers)},
              {"agents", processes(s.agents)},
              {"run", s.run ? Json{{"pid", s.run->pid}, {"start_time", s.run->start_time}} : Json(nullptr)},
              {"link_rate_mbit", s.link_rate_mbit ? Json(*s.link_rate_mbit) : Json(nullptr)},
              {"link", s.link ? Json{{"pid", s.link->pid}, {"start_time", s.link->start_time}} : Json(nullptr)},
              {"link_rtt_ms", s.link_rtt_ms ? Json(*s.link_rtt_ms) : Json(nullptr)},
              {"tls", s.tls},
              {"steer", s.steer}};
  return out.dump(2) + "\n";
}

Result<LabState> state_from_json(const std::string& text) {
  Json in = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!in.is_object()) return fail("not a JSON object");
  LabState s;
  s.lab = text_of(in, "lab");
  s.complete = in.contains("complete") && in["complete"].is_boolean() && in["complete"].get<bool>();
  if (in.contains("netns") && in["netns"].is_array()) {
    for (const Json& n : in["netns"]) {
      if (n.is_string()) s.netns.push_back(n.get<std::string>());
    }
  }
  s.cgroup = text_of(in, "cgroup");
  s.disk = text_of(in, "disk");
  s.tls = in.contains("tls") && in["tls"] == true;
  s.steer = text_of(in, "steer");
  s.made_disk_parent = in.contains("made_disk_parent") && in["made_disk_parent"] == true;
  s.keepers = processes_from(in, "keepers");
  s.agents = processes_from(in, "agents");
  if (in.contains("run")) s.run = process_from(in["run"]);
  if (in.contains("link")) s.link = process_from(in["link"]);
  s.link_rate_mbit = number_of(in, "link_rate_mbit");
  s.link_rtt_ms = number_of(in, "link_rtt_ms");
  return s;
}

Result<std::optional<LabState>> load_state(const Names& names) {
  auto text = read_file(names.state_file());
  if (!text && text.error().code == ENOENT) return std::optional<LabState>();
  if (!text) return std::unexpected(text.error());
  auto state = state_from_json(*text);
  if (!state) return context(names.state_file(), state.error());
  return std::optional(std::move(*state));
}

Status save_state(const Names& names, const LabState& state) {
  // It goes with the last lab, and a caller without a lock finds it gone.
  if (::mkdir(kStateRoot, 0755) != 0 && errno != EEXIST) return fail_errno(std::string("mkdir ") + kStateRoot);
  return write_whole_file(names.state_file(), to_json(state));
}

void remove_state(const Names& names) {
  ::unlink((names.state_file() + ".new").c_str());
  ::unlink(names.state_file().c_str());
}

std::vector<std::string> list_labs() {
  std::vector<std::string> out;
  Directory dir = open_directory(kStateRoot);
  if (!dir) return out;
  while (dirent* entry = ::readdir(dir.get())) {
    std::string name = entry->d_name;
    if (name.ends_with(".json")) out.push_back(name.substr(0, name.size() - 5));
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<LabLock> LabLock::acquire(const Names& names, int seconds) {
  for (int waited_us = 0;; waited_us += kLockPollUs) {
    if (::mkdir(kStateRoot, 0755) != 0 && errno != EEXIST) return fail_errno(std::string("mkdir ") + kStateRoot);
    auto file = open_file(names.lock_file(), O_RDWR | O_CREAT, 0600);
    if (!file && file.error().code == ENOENT) continue;  // the directory went away between the two calls
    if (!file) return std::unexpected(file.error());
    if (::flock(file->get(), LOCK_EX | LOCK_NB) == 0) {
      // Whoever held it may have removed the file: then our lock is on a file that nobody else will see.
      struct stat ours, named;
      if (::fstat(file->get(), &ours) == 0 && ::stat(names.lock_file().c_str(), &named) == 0 && ours.st_ino == named.st_ino) {
        return LabLock(std::move(*file), names);
      }
      continue;
    }
    if (errno != EWOULDBLOCK) return fail_errno("flock " + names.lock_file());
    if (waited_us / 1'000'000 >= seconds) return fail("lab " + names.lab() + " is in use by another command");
    ::usleep(kLockPollUs);
  }
}

LabLock::~LabLock() {
  if (!file_) return;
  if (::access(names_.state_file().c_str(), F_OK) != 0) {
    ::unlink(names_.lock_file().c_str());
    ::rmdir(kStateRoot);  // succeeds only when no lab is left
  }
}

}  // namespace mose::lab
