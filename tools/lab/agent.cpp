// SPDX-License-Identifier: MIT
#include "lab/agent.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "lab/lab.h"
#include "lab/node.h"
#include "lab/node_root.h"
#include "lab/topology.h"

namespace mose::lab {
namespace {

// The agent proves CRIU on a canary at its start: seconds on a busy machine.
constexpr Nanoseconds kAgentStartBound = std::chrono::seconds(30);
constexpr Nanoseconds kAgentStopBound = std::chrono::seconds(5);
constexpr useconds_t kPollUs = 20'000;
constexpr size_t kLogTail = 2000;

std::string log_tail(const std::string& path) {
  auto text = read_file(path);
  if (!text) return {};
  return text->size() > kLogTail ? text->substr(text->size() - kLogTail) : *text;
}

}  // namespace

std::string agent_config(const Names& names, const std::string& node, const std::string& steer, bool tls) {
  std::string peer = node == "a" ? "b" : "a", port = ":" + std::to_string(kPeerPort);
  const std::string pki = std::string(kPkiDirectory) + "/";
  return "[node]\n"
         "name = \"" + node + "\"\n"
         "listen = \"" + node_address(node) + port + "\"\n"
         "uplink = \"" + kUplink + "\"\n"
         "bridge = \"" + kBridge + "\"\n"
         "cgroup = \"/sys/fs/cgroup/unified/" + names.node_cgroup(node) + "/workloads\"\n" +
         (steer.empty() ? "" : "steer = \"" + steer + "\"\n") +
         "\n[tls]\n" +
         (tls ? "certificate = \"" + pki + node + ".crt\"\nkey = \"" + pki + node + ".key\"\nauthorities = \"" + pki + "ca.crt\"\nrevoked = \"" + pki +
                    "revoked.pem\"\n"
              : std::string("plain_text = true\n")) +
         "\n"
         "[peers." + peer + "]\n"
         "address = \"" + node_address(peer) + port + "\"\n";
}

Result<std::string> control_socket(const LabState& state, const std::string& node) {
  MOSE_ASSIGN(auto place, open_node(state, node));
  return place.root + "/run/mose/mosed.sock";
}

bool agent_answers(const LabState& state, const std::string& node) {
  auto path = control_socket(state, node);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!path || path->size() >= sizeof address.sun_path) return false;
  path->copy(address.sun_path, sizeof address.sun_path - 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return socket && ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

Result<ProcessRecord> start_agent(const Names& names, const LabState& state, const std::string& node) {
  MOSE_ASSIGN(auto place, open_node(state, node));
  MOSE_ASSIGN(auto log, open_file(names.agent_log(node), O_WRONLY | O_CREAT | O_APPEND, 0644));
  ProgramSpec spec;
  spec.argv = {"/usr/bin/mosed"};
  spec.place = &place.place;
  spec.cgroup = place.cgroup;
  spec.out = spec.err = log.get();
  spec.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"};
  MOSE_ASSIGN(auto agent, start_daemon(spec));
  Timestamp deadline = now() + kAgentStartBound;
  while (!agent_answers(state, node)) {
    bool ended = !agent.alive();
    if (!ended && now() < deadline) {
      ::usleep(kPollUs);
      continue;
    }
    auto ignored = agent.signal(SIGKILL);
    return fail("mosed of node " + node + (ended ? " ended at its start" : " does not answer") + "; its log ends with:\n" +
                log_tail(names.agent_log(node)));
  }
  return ProcessRecord{agent.pid(), agent.start_time()};
}

Status stop_agent(const LabState& state, const std::string& node) {
  auto record = state.agents.find(node);
  if (record == state.agents.end()) return {};
  auto agent = open_record(record->second);
  if (!agent || !agent->alive()) return {};
  auto ignored = agent->signal(SIGTERM);
  if (agent->wait_ended(kAgentStopBound)) return {};
  auto killed = agent->signal(SIGKILL);
  return agent->wait_ended(kAgentStopBound);
}

}  // namespace mose::lab
