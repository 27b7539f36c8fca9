// SPDX-License-Identifier: MIT
#include "lab/command.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "lab/agent.h"
#include "lab/lab.h"
#include "lab/node.h"
#include "lab/options.h"
#include "lab/scenario.h"

namespace mose::lab {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFailed = 1, kUsageError = 2, kRefused = 3;
constexpr int kLockSeconds = 60;

int report(const Error& error, int code) {
  log::error(error.what);
  return code;
}

// As the other verbs of mose say it.
int usage_error(const std::string& what, bool json) {
  std::fprintf(stderr, "mose: %s\n", what.c_str());
  if (json) {
    Json object{{"error", {{"exit_code", kUsageError}, {"reason", what}}}};
    std::printf("%s\n", object.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  }
  return kUsageError;
}

void print(const Json& json) { std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str()); }

int do_up(const CommandLine& line) {
  auto lock = LabLock::acquire(Names(line.lab), kLockSeconds);
  if (!lock) return report(lock.error(), kFailed);
  LabOptions options;
  options.lab = line.lab;
  options.link_rate_mbit = line.link_rate_mbit;
  options.link_rtt_ms = line.link_rtt_ms;
  options.agents = !line.no_agents;
  options.steer = line.steer;
  options.tls = line.tls;
  auto state = up(options);
  if (!state) return report(state.error(), kFailed);
  if (line.json) print({{"lab", line.lab}, {"up", true}});
  return 0;
}

int do_down(const CommandLine& line) {
  auto lock = LabLock::acquire(Names(line.lab), kLockSeconds);
  if (!lock) return report(lock.error(), kFailed);
  if (auto s = down(Names(line.lab)); !s) return report(s.error(), kFailed);
  if (line.json) print({{"lab", line.lab}, {"up", false}});
  return 0;
}

int do_status(const CommandLine& line) {
  auto found = status(Names(line.lab));
  if (!found) return report(found.error(), kFailed);
  if (line.json) {
    Json nodes = Json::array();
    for (const NodeStatus& n : found->nodes) {
      nodes.push_back({{"node", n.node}, {"address", n.address}, {"keeper", n.keeper}, {"keeper_pid", n.keeper_pid},
                       {"agent", n.agent}, {"agent_pid", n.agent_pid}, {"agent_answers", n.agent_answers}});
    }
    print({{"lab", found->lab}, {"exists", found->exists}, {"complete", found->complete}, {"leftover", found->leftover}, {"nodes", nodes}});
  } else if (!found->exists) {
    std::printf("lab %s is down\n", found->lab.c_str());
  } else {
    std::printf("lab %s is %s\n", found->lab.c_str(), found->leftover ? "left over from a killed run" : found->complete ? "up" : "half made");
    for (const NodeStatus& n : found->nodes) {
      std::printf("  %-2s %-16s node %-8s agent %s\n", n.node.c_str(), n.address.c_str(), n.keeper ? "running" : "gone",
                  n.agent_answers ? "answers" : n.agent ? "does not answer" : "gone");
    }
  }
  return found->exists ? 0 : kFailed;
}

int do_list(const CommandLine& line) {
  if (line.json) print(Json(list_labs()));
  if (line.json) return 0;
  for (const std::string& lab : list_labs()) std::printf("%s\n", lab.c_str());
  return 0;
}

int do_exec(const CommandLine& line) {
  if (line.words.size() != 1 || line.command.empty()) return usage_error("lab exec needs: NODE -- COMMAND", line.json);
  auto state = load_state(Names(line.lab));
  if (!state) return report(state.error(), kFailed);
  if (!*state) return usage_error("lab " + line.lab + " is down", line.json);
  ProgramSpec spec;
  spec.argv = line.command;
  spec.in = 0;
  spec.die_with_us = true;
  NodePlace node;
  if (line.words[0] == "client") {
    auto client = Place::of_netns(Names(line.lab).netns_path("client"));
    if (!client) return report(client.error(), kFailed);
    node.place = std::move(*client);
  } else if (is_node(line.words[0])) {
    auto opened = open_node(**state, line.words[0]);
    if (!opened) return report(opened.error(), kFailed);
    node = std::move(*opened);
    spec.cgroup = node.cgroup;
    spec.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  } else {
    return usage_error("unknown node \"" + line.words[0] + "\"; there are: a, b, client", line.json);
  }
  spec.place = &node.place;
  auto child = start_program(spec);
  if (!child) return report(child.error(), 127);
  constexpr Nanoseconds kForever = std::chrono::hours(24 * 365);
  auto exit = child->reap(kForever);
  if (!exit) return report(exit.error(), kFailed);
  return exit->signalled ? 128 + exit->value : exit->value;
}

int do_restart_agent(const CommandLine& line) {
  if (line.words.size() != 1 || !is_node(line.words[0]))
    return usage_error("lab restart-agent needs a node: a or b", line.json);
  Names names(line.lab);
  auto lock = LabLock::acquire(names, kLockSeconds);
  if (!lock) return report(lock.error(), kFailed);
  auto state = load_state(names);
  if (!state) return report(state.error(), kFailed);
  if (!*state) return usage_error("lab " + line.lab + " is down", line.json);
  if (auto s = restart_agent(names, **state, line.words[0]); !s) return report(s.error(), kFailed);
  return 0;
}

int do_run(const CommandLine& line) {
  if (line.words.size() != 1 || line.words[0] != "redis")
    return usage_error("lab run needs a scenario; there is: redis", line.json);
  auto lock = LabLock::acquire(Names(line.lab), kLockSeconds);
  if (!lock) return report(lock.error(), kFailed);
  auto good = run_scenario(line);
  if (!good) return report(good.error(), kFailed);
  return *good ? 0 : kFailed;
}

}  // namespace

int run_command(const std::vector<std::string>& args, bool json) {
  if (asks_for_help(args)) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  auto line = parse_command_line(args);
  if (!line) {
    bool asked = json || std::find(args.begin(), args.end(), "--json") != args.end();
    return usage_error(line.error().what + "; see mose lab --help", asked);
  }
  line->json |= json;
  bool takes_words = line->verb == "exec" || line->verb == "restart-agent" || line->verb == "run";
  if (!takes_words && !line->words.empty())
    return usage_error("lab " + line->verb + " takes no argument " + line->words[0], line->json);
  if (line->verb == "up") return do_up(*line);
  if (line->verb == "down") return do_down(*line);
  if (line->verb == "status") return do_status(*line);
  if (line->verb == "list") return do_list(*line);
  if (line->verb == "exec") return do_exec(*line);
  if (line->verb == "restart-agent") return do_restart_agent(*line);
  return do_run(*line);
}

}  // namespace mose::lab
