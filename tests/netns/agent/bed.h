// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"

// A node of its own for tests of the agent: network and mount namespaces, a bridge, a bpf file system, a cgroup and
// directories, a root tree with redis, and the real mosed and mose of this build.
//
// Life: enter() once per process (it changes the namespaces of the test itself), then start_agent() and so on; the
// destructor stops what runs and removes cgroup and directories. A crashed run is cleaned by the next enter().
namespace mose::test {

struct Output {
  int exit_code = -1;
  std::string out, error;
};
// Runs a program to its end, at most `bound` (then exit code -1).
[[nodiscard]] Output run_program(const std::vector<std::string>& arguments,
                                 Nanoseconds bound = std::chrono::seconds(60));

class AgentBed {
 public:
  // Skips the process where a prerequisite is missing. `name` names cgroup and directory. `programs`: where mosed and mose
  // are, empty: beside the test.
  explicit AgentBed(const std::string& name, const std::string& programs = {});
  ~AgentBed();
  AgentBed(const AgentBed&) = delete;
  AgentBed& operator=(const AgentBed&) = delete;

  // Waits for READY=1. Extra text goes to the end of the configuration.
  void start_agent(const std::string& more_configuration = "");
  void start_agent_with(const std::string& configuration);
  void terminate_agent();  // SIGTERM, and waits for its end
  void kill_agent();       // SIGKILL
  [[nodiscard]] pid_t agent_pid() const { return agent_; }

  // mose --socket SOCKET arguments...
  [[nodiscard]] Output mose(std::vector<std::string> arguments);
  // mosed with this configuration, to its end: for starts that must fail.
  [[nodiscard]] Output mosed_once(const std::string& configuration);
  [[nodiscard]] std::string configuration() const;

  [[nodiscard]] const std::string& directory() const { return directory_; }
  [[nodiscard]] std::string root() const { return directory_ + "/root"; }
  [[nodiscard]] std::string program(const std::string& name) const { return bin_ + "/" + name; }
  [[nodiscard]] const std::string& cgroup() const { return cgroup_; }
  [[nodiscard]] std::string socket() const { return directory_ + "/run/mosed.sock"; }
  [[nodiscard]] std::string agent_log() const;

 private:
  void make_root(const std::string& init);
  void clean();

  std::string directory_, cgroup_, bin_;
  pid_t agent_ = 0;
};

// Whether redis at `address`:6379 answers PING before `bound` has passed.
[[nodiscard]] bool redis_answers(const std::string& address, Nanoseconds bound = std::chrono::seconds(10));

}  // namespace mose::test
