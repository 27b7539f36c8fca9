// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <utility>

#include "agent/config.h"
#include "agent/peer_access.h"
#include "mose/control/control.pb.h"
#include "mose/output.h"
#include "mose/session.h"

namespace mose::cli {
namespace {

using control::v1::Request;
using control::v1::Response;

constexpr Nanoseconds kWorkBound = std::chrono::seconds(90);  // run, check, cleanup
constexpr Nanoseconds kGraceMax = std::chrono::hours(1);

// A request whose answer is printed by `print`.
template <typename Print>
int one_answer(const Command& command, Request& request, Print print, Nanoseconds bound = kAnswerBound) {
  Response response;
  if (auto answered = ask(command, request, response, bound); !answered) return report(command, answered.error());
  fmt::print("{}", print(response));
  return 0;
}

int run_workload(const Command& command) {
  Request request;
  auto& run = *request.mutable_run();
  run.set_name(command.subject);
  for (const std::string& address : command.addresses) run.add_addresses(address);
  run.set_gateway(command.gateway);
  run.set_root(command.root);
  run.set_all_capabilities(command.all_capabilities);
  for (const WorkloadMount& mount : command.mounts) {
    auto& item = *run.add_mounts();
    item.set_source(mount.source);
    item.set_target(mount.target);
    item.set_mode(std::string(to_string(mount.mode)));
    item.set_read_only(mount.read_only);
  }
  for (const std::string& word : command.command) run.add_command(word);
  for (const std::string& entry : command.environment) run.add_environment(entry);
  return one_answer(command, request, [&](const Response& r) { return show(r.workload(), command.json); }, kWorkBound);
}

int stop_workload(const Command& command) {
  if (command.grace > kGraceMax) return report(command, {2, "--grace is longer than an hour"});
  Request request;
  request.mutable_stop()->set_name(command.subject);
  auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(command.grace).count();
  request.mutable_stop()->set_grace_ms(static_cast<uint32_t>(milliseconds));
  return one_answer(
      command, request, [&](const Response& r) { return show(r.workload(), command.json); },
      kWorkBound + command.grace);
}

int check(const Command& command) {
  Request request;
  request.mutable_check()->set_workload(command.subject);
  request.mutable_check()->set_node(command.node);
  Response response;
  if (auto answered = ask(command, request, response, kWorkBound); !answered) return report(command, answered.error());
  fmt::print("{}", show(response.check_result(), command.json));
  if (response.check_result().ok()) return 0;
  return command.subject.empty() ? 1 : 3;
}

int status(const Command& command) {
  constexpr unsigned kWatchSeconds = 1;
  bool warned = command.json;  // it is a field there
  for (;;) {
    Request request;
    request.mutable_status();
    int code = one_answer(command, request, [&](const Response& r) {
      if (r.migration_list().plain_text() && !std::exchange(warned, true)) {
        fmt::print(stderr, "mose: plain text: other nodes are believed by their names and nothing is encrypted (tls.plain_text)\n");
      }
      return show(r.migration_list(), command.json);
    });
    if (code != 0 || !command.watch) return code;
    std::fflush(stdout);
    sleep(kWatchSeconds);
  }
}

int follow_events(const Command& command) {
  auto client = connect(command);
  if (!client) return report(command, client.error());
  Request request;
  request.mutable_events();
  if (auto sent = client->send(request); !sent) return report(command, lost(sent.error()).error());
  for (;;) {
    Response response;
    if (auto status = client->receive(response, Nanoseconds(0)); !status)
      return report(command, lost(status.error()).error());
    if (response.has_failure()) {
      return report(command, {static_cast<int>(response.failure().exit_code()), response.failure().reason()});
    }
    if (response.has_event()) fmt::print("{}", show(response.event(), command.json));
    if (std::fflush(stdout) != 0) return 0;  // the reader of a pipe has gone
    if (response.last()) return 0;
  }
}

// As an agent reads them at its start, which ends where they cannot be used. One that has expired starts, and is refused by others.
Status check_certificates(const agent::Config& config) {
  MOSE_TRY(agent::check_transport(config));
  if (config.tls.plain_text) return {};
  MOSE_ASSIGN(auto tls, agent::load_tls(config));
  if (auto timely = tls->own().check_time(std::time(nullptr)); !timely) {
    fmt::print(stderr, "mose: other nodes refuse this one: {}: {}\n", config.tls.certificate, timely.error().what);
  }
  return {};
}

int config_check(const Command& command) {
  bool given = !command.config.empty();
  auto config = agent::load_config(given ? command.config : agent::kConfigDefaultPath, given);
  if (!config) return report(command, {2, config.error().what});
  if (auto usable = check_certificates(*config); !usable) return report(command, {2, usable.error().what});
  fmt::print("{}", agent::format_config(*config));
  if (config->files.empty()) fmt::print(stderr, "mose: no configuration file: everything is the default\n");
  return 0;
}

std::string done_text(const Command& command, const Response& response) {
  const auto& notes = response.done().notes();
  return show_notes({notes.begin(), notes.end()}, command.json);
}

}  // namespace

int run_verb(const Command& command) {
  Request request;
  bool json = command.json;
  switch (command.verb) {
    case Verb::run:
      return run_workload(command);
    case Verb::stop:
      return stop_workload(command);
    case Verb::check:
      return check(command);
    case Verb::migrate:
      return run_migrate(command);
    case Verb::status:
      return status(command);
    case Verb::events:
      return follow_events(command);
    case Verb::config_check:
      return config_check(command);
    case Verb::pki_init:
    case Verb::pki_issue:
    case Verb::pki_show:
    case Verb::pki_rotate:
    case Verb::pki_revoke:
      return run_pki(command);
    case Verb::show:
      request.mutable_show()->set_migration_id(command.subject);
      return one_answer(command, request, [&](const Response& r) { return show_report(r.json().text(), json); });
    case Verb::history:
      request.mutable_history()->set_count_max(command.count_max);
      return one_answer(command, request, [&](const Response& r) {
        if (r.json().left_out() > 0) {
          fmt::print(
              stderr,
              "mose: the {} oldest have no room in an answer: they are in history.jsonl of the agent's state_dir\n",
              r.json().left_out());
        }
        return show_history(r.json().text(), json);
      });
    case Verb::workloads:
      request.mutable_workloads();
      return one_answer(command, request, [&](const Response& r) { return show(r.workload_list(), json); });
    case Verb::nodes:
      request.mutable_nodes();
      return one_answer(command, request, [&](const Response& r) { return show(r.node_list(), json); });
    case Verb::ping:
      request.mutable_ping();
      return one_answer(command, request, [&](const Response& r) { return show(r.pong(), json); });
    case Verb::steer_show:
      request.mutable_steer_show()->set_service(command.subject);
      return one_answer(command, request, [&](const Response& r) { return show_steering(r.json().text(), json); });
    case Verb::steer_explain:
      request.mutable_steer_explain()->set_flow(fmt::format("{}", fmt::join(command.flow, " ")));
      return one_answer(command, request, [&](const Response& r) { return show_explanation(r.json().text(), json); });
    case Verb::steer_release:
      request.mutable_steer_release()->set_service(command.subject);
      return one_answer(command, request, [&](const Response& r) { return done_text(command, r); }, kWorkBound);
    case Verb::cancel:
      request.mutable_cancel()->set_migration_id(command.subject);
      return one_answer(command, request, [&](const Response& r) { return done_text(command, r); });
    case Verb::recover:
      return run_recover(command);
    case Verb::cleanup:
      request.mutable_cleanup()->set_dry_run(command.dry_run);
      return one_answer(command, request, [&](const Response& r) { return done_text(command, r); }, kWorkBound);
    case Verb::lab:
      break;
  }
  return report(command, {2, "this build has no lab"});
}

}  // namespace mose::cli
