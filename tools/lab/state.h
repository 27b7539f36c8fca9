// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "lab/names.h"

namespace mose::lab {

// A process as it is written down: the number counts only together with the start time.
struct ProcessRecord {
  pid_t pid = 0;
  uint64_t start_time = 0;
};

// What a lab has made, kept in /run/mose-lab/NAME.json. It is written before the first thing is made and after each
// step, so that whoever comes next, after whatever crash, takes down all of it and nothing else.
struct LabState {
  std::string lab;
  bool complete = false;             // `up` came to its end
  std::vector<std::string> netns;    // names, as of `ip netns`
  std::string cgroup;                // absolute path; everything that runs for the lab is in it
  std::string disk;                  // directory of the nodes' roots
  bool made_disk_parent = false;     // /var/lib/mose was not there before
  std::map<std::string, ProcessRecord> keepers, agents;  // by node
  // The `lab run` that made the lab and will take it down: when it has gone without doing so, the lab is a leftover.
  std::optional<ProcessRecord> run;
  std::optional<double> link_rate_mbit, link_rtt_ms;
  std::optional<ProcessRecord> link;  // the process of the emulated links
  bool tls = false;
  std::string steer;                 // node.steer of the nodes; empty: their default
};

[[nodiscard]] std::string to_json(const LabState& state);
[[nodiscard]] Result<LabState> state_from_json(const std::string& text);

// Absent when the lab does not exist.
[[nodiscard]] Result<std::optional<LabState>> load_state(const Names& names);
// Replaces the file as a whole (a new file, renamed).
[[nodiscard]] Status save_state(const Names& names, const LabState& state);
// The file and, when it was the last, the directory.
void remove_state(const Names& names);
[[nodiscard]] std::vector<std::string> list_labs();

// One command at a time works on a lab. Held as long as the object lives; its file goes with the last holder of a lab
// that is down.
class LabLock {
 public:
  // Waits for another command for at most `seconds`.
  [[nodiscard]] static Result<LabLock> acquire(const Names& names, int seconds);
  LabLock(LabLock&&) noexcept = default;
  LabLock& operator=(LabLock&&) = delete;
  ~LabLock();

 private:
  LabLock(Fd file, Names names) : file_(std::move(file)), names_(std::move(names)) {}
  Fd file_;
  Names names_;
};

}  // namespace mose::lab
