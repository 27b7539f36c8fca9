// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "model/workload.h"

// The command line of `mose` as a value, separate from what it does, so that tests can look at it.
namespace mose::cli {

enum class Verb {
  run,
  stop,
  check,
  migrate,
  status,
  show,
  events,
  history,
  workloads,
  nodes,
  cancel,
  recover,
  cleanup,
  steer_show,
  steer_explain,
  steer_release,
  config_check,
  pki_init,
  pki_issue,
  pki_show,
  pki_rotate,
  pki_revoke,
  ping,
  lab,
};

struct Command {
  Verb verb = Verb::ping;
  std::string socket;   // --socket
  bool json = false;    // --json
  std::string subject;  // workload, migration id, service; by verb

  std::vector<std::string> flow;  // steer explain: protocol, source, destination, "syn"

  // run
  std::vector<std::string> addresses, environment, command;
  std::vector<WorkloadMount> mounts;
  std::string root, gateway;
  bool all_capabilities = false;
  // stop
  Nanoseconds grace{0};
  // check, migrate
  std::string node;
  std::string strategy, objective, tracker, steer;
  Nanoseconds max_downtime{0}, max_total{0}, max_stall{0};
  uint64_t max_bandwidth_bps = 0;
  unsigned rounds_max = 0;
  std::string standby;
  bool auto_converge = false;
  bool dry_run = false, detach = false;  // dry_run: recover and cleanup as well
  // recover
  bool resume_here = false, give_up = false, yes = false;
  // status, events
  bool watch = false;
  // history
  unsigned count_max = 0;
  // config check
  std::string config;
  // pki
  std::string directory;
  std::vector<std::string> roles;
  unsigned days = 0;
  // lab: everything behind the word
  std::vector<std::string> lab_arguments;
};

// Either a command, or what to print and the exit code to end with (help and version: 0, usage: 2).
struct Parsed {
  std::optional<Command> command;
  int exit_code = 0;
  std::string out, error;
};
// A wrong command line as every verb says it: exit code 2, one sentence, with `json` an error object as data.
[[nodiscard]] Parsed usage_error(const std::string& text, bool json);
[[nodiscard]] Parsed parse_command_line(const std::vector<std::string>& arguments);  // without argv[0]

}  // namespace mose::cli
