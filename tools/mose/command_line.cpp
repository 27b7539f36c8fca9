// SPDX-License-Identifier: MIT
#include "mose/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "agent/control_client.h"
#include "agent/version.h"
#include "base/units.h"
#include "model/migration.h"

namespace mose::cli {
namespace {

constexpr const char* kExamples = R"(Examples:
  mose run redis --address 192.0.2.10/24 --root /srv/redis -- redis-server --save ''
  mose check                          what this host can do
  mose check redis --to b             what stands in the way of that move
  mose migrate redis --to b           move it; its clients keep their connections
  mose migrate redis --to b --dry-run --json
  mose status; mose history; mose show 3fe1
  mose pki init; mose pki issue a     certificates by which nodes know each other
  mose lab run redis                  try it all in network namespaces of this machine

Exit codes: 0 complete; 1 failed, the source still runs; 2 usage or unknown name; 3 refused before touching anything;
4 failed after the commit; 5 cancelled; 6 agent unreachable, state unknown. 7 is kept for a move
that misses a target (--max-downtime, --max-total, --max-stall), which this version refuses (3).)";

// A validator that stores what `parse` makes of the text, so that a wrong one is a usage error with our sentence.
template <typename T, typename Parse>
std::function<void(const std::string&)> into(T& target, Parse parse) {
  return [&target, parse](const std::string& text) {
    auto value = parse(text);
    if (!value) throw CLI::ValidationError(value.error().what);  // CLI11's way; caught in parse_command_line
    target = *value;
  };
}

// Builds the options of every verb into `command`. The verb itself is set by the chosen subcommand.
class Grammar {
 public:
  explicit Grammar(Command& command) : command_(command), app_("mose: moves running services between nodes", "mose") {
    app_.require_subcommand(1);
    app_.footer(kExamples);
    app_.set_version_flag("--version", std::string("mose ") + agent::kVersion);
    command_.socket = agent::kControlSocketDefault;
    command_.directory = "/etc/mose/pki";
    common(app_);
    workload_verbs();
    migration_verbs();
    host_verbs();
    certificate_verbs();
  }

  void parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());  // the order in which CLI11 wants a vector
    app_.parse(arguments);
  }
  CLI::App& app() { return app_; }

 private:
  void common(CLI::App& app) {
    app.add_option("--socket", command_.socket, "socket of the agent")->envname("MOSE_SOCKET");
    app.add_flag("--json", command_.json, "print JSON");
  }

  CLI::App& verb(CLI::App& parent, Verb verb, const char* name, const char* help) {
    CLI::App& sub = *parent.add_subcommand(name, help);
    common(sub);
    sub.callback([this, verb] { command_.verb = verb; });
    return sub;
  }

  void workload_verbs() {
    CLI::App& run = verb(app_, Verb::run, "run",
                         "start a workload in namespaces and a cgroup of its own: run NAME --address A -- CMD");
    run.add_option("name", command_.subject, "name of the workload")->required();
    run.add_option("--address", command_.addresses, "its address with prefix length, 192.0.2.10/24; may be repeated")
        ->required();
    run.add_option_function<std::vector<std::string>>(
        "--mount",
        [this](const std::vector<std::string>& texts) {
          for (const std::string& text : texts) {
            auto mount = parse_mount(text);
            if (!mount) throw CLI::ValidationError(mount.error().what);
            command_.mounts.push_back(*mount);
          }
        },
        "SOURCE:TARGET:identical|shared|copy[:ro]; may be repeated");
    run.add_option("--root", command_.root, "directory that becomes its read-only root (default /)");
    run.add_option("--gateway", command_.gateway, "next hop for other segments");
    run.add_option("--env", command_.environment, "NAME=VALUE; may be repeated");
    run.add_flag("--all-capabilities", command_.all_capabilities,
                 "root in it is root of this node (without: no mounts, devices, modules, BPF programs, ...)");

    CLI::App& stop = verb(app_, Verb::stop, "stop", "stop a workload and remove what was made for it");
    stop.add_option("name", command_.subject, "name of the workload")->required();
    stop.add_option_function<std::string>("--grace", into(command_.grace, parse_duration),
                                          "from SIGTERM to SIGKILL, such as 5s");
    verb(app_, Verb::workloads, "workloads", "the workloads of this node");
  }

  void migration_verbs() {
    CLI::App& migrate = verb(app_, Verb::migrate, "migrate", "move a running workload to another node");
    migrate.add_option("workload", command_.subject, "name of the workload")->required();
    migrate.add_option("--to", command_.node, "node to move it to")->required();
    migrate.add_option_function<std::string>(
        "--strategy",
        [this](const std::string& text) {
          auto strategy = parse_strategy(text);
          if (!strategy) throw CLI::ValidationError(strategy.error().what);
          command_.strategy = text;
        },
        "auto, cold, precopy, postcopy or hybrid");
    migrate.add_option("--objective", command_.objective, "downtime or resources")
        ->check(CLI::IsMember({"downtime", "resources"}));
    migrate.add_option_function<std::string>("--max-downtime", into(command_.max_downtime, parse_duration),
                                             "such as 50ms");
    migrate.add_option_function<std::string>("--max-total", into(command_.max_total, parse_duration), "such as 5s");
    migrate.add_option_function<std::string>("--max-bandwidth", into(command_.max_bandwidth_bps, parse_bandwidth),
                                             "such as 500mbit");
    migrate.add_option_function<std::string>("--max-stall", into(command_.max_stall, parse_duration), "such as 10ms");
    migrate.add_option("--rounds", command_.rounds_max, "at most so many pre-copy rounds")->check(CLI::Range(1, 64));
    migrate.add_flag("--auto-converge", command_.auto_converge,
                     "slow the workload down, in steps of 20 % to 80 %, where pre-copy does not converge (default: never)");
    migrate.add_option("--standby", command_.standby, "auto (default: a tree built ahead at the destination, for one short pause more) or never")
        ->check(CLI::IsMember({"auto", "never"}));
    migrate.add_option_function<std::string>(
        "--tracker",
        [this](const std::string& text) {
          auto tracker = parse_tracker(text);
          if (!tracker) throw CLI::ValidationError(tracker.error().what);
          command_.tracker = to_string(*tracker);
        },
        "how written pages are found: auto (default), wp (write protection), wp-early (in every round), hash (their contents) or soft-dirty");
    migrate.add_option("--steer", command_.steer, "where stragglers are redirected: auto (default: at XDP where the uplink has it), tc or xdp")
        ->check(CLI::IsMember({"auto", "tc", "xdp"}));
    migrate.add_flag("--dry-run", command_.dry_run, "only say what stands in the way");
    migrate.add_flag("--detach", command_.detach, "return once it has begun");

    CLI::App& status = verb(app_, Verb::status, "status", "migrations under way or undecided");
    status.add_flag("--watch", command_.watch, "again each second");
    CLI::App& show = verb(app_, Verb::show, "show", "one migration, under way or finished");
    show.add_option("id", command_.subject, "id of the migration, or its first characters; of one under way also its workload")->required();
    CLI::App& events = verb(app_, Verb::events, "events", "what happens on this node");
    events.add_flag("--follow", command_.watch, "until interrupted, as without it");
    CLI::App& history = verb(app_, Verb::history, "history", "finished migrations, newest first");
    history.add_option("--count", command_.count_max, "at most so many");
    CLI::App& cancel = verb(app_, Verb::cancel, "cancel", "abort a migration before its commit");
    cancel.add_option("id", command_.subject, "id of the migration, its first characters, or its workload")->required();
    CLI::App& recover =
        verb(app_, Verb::recover, "recover", "show what both nodes have of a migration that does not end, and what is done about it; then do it");
    recover.add_option("id", command_.subject, "id of the migration, its first characters, or its workload")->required();
    auto* here = recover.add_flag("--resume-here", command_.resume_here, "only when the other node will never run it: it runs on here");
    auto* end = recover.add_flag("--give-up", command_.give_up, "only when the other node will never need it: what is here of it is ended");
    here->excludes(end);
    recover.add_flag("--dry-run", command_.dry_run, "only show it");
    recover.add_flag("--yes", command_.yes, "do it without a question");
  }

  void host_verbs() {
    CLI::App& check = verb(app_, Verb::check, "check", "what this host can do, or what stands in the way of a move");
    auto* workload = check.add_option("workload", command_.subject, "name of a workload");
    auto* node = check.add_option("--to", command_.node, "node to move it to");
    workload->needs(node);
    node->needs(workload);
    verb(app_, Verb::nodes, "nodes", "this node and its peers, and whether they would take its workloads");
    verb(app_, Verb::cleanup, "cleanup", "remove what workloads that have ended or left still have here, and what no record or journal names")
        .add_flag("--dry-run", command_.dry_run, "only say what would go");
    verb(app_, Verb::ping, "ping", "whether the agent answers, and its version");

    CLI::App& steer = *app_.add_subcommand("steer", "what happens to packets");
    steer.require_subcommand(1);
    verb(steer, Verb::steer_show, "show", "states and counters")
        .add_option("service", command_.subject, "address of one service, or a workload");
    verb(steer, Verb::steer_explain, "explain", "what would happen to a packet now, and why")
        .add_option("flow", command_.flow, "PROTOCOL SOURCE DESTINATION [syn]: tcp 192.0.2.9:40000 192.0.2.10:6379")
        ->required()
        ->expected(1, 4);
    verb(steer, Verb::steer_release, "release", "end what is held, shut or redirected of a service that no migration decides about")
        .add_option("service", command_.subject, "address of a service, or a workload")
        ->required();

    CLI::App& config = *app_.add_subcommand("config", "the agent's configuration");
    config.require_subcommand(1);
    verb(config, Verb::config_check, "check", "read it and the certificates that it names, say the first error or print every key")
        .add_option("--config", command_.config, "configuration file");

    app_.add_subcommand("lab", "nodes and a client in network namespaces of this machine: up, down, status, list, run")
        ->prefix_command()
        ->callback([this] { command_.verb = Verb::lab; });
  }

  void certificate_verbs() {
    constexpr unsigned kDaysMax = 36500, kDaysOfNode = 365, kDaysOfAuthority = 3650;
    CLI::App& pki = *app_.add_subcommand("pki", "certificates by which nodes know each other; needs no agent");
    pki.require_subcommand(1);
    CLI::App& init = verb(pki, Verb::pki_init, "init", "make the authority of a fleet, and its list of revoked certificates");
    CLI::App& issue = verb(pki, Verb::pki_issue, "issue", "make the key and the certificate of a node");
    CLI::App& rotate = verb(pki, Verb::pki_rotate, "rotate", "replace the key and the certificate of a node; a running agent takes them without a restart");
    CLI::App& revoke = verb(pki, Verb::pki_revoke, "revoke", "put a certificate into the list of those that are not believed any more (tls.revoked)");
    CLI::App& show = verb(pki, Verb::pki_show, "show", "what certificates say, and how long they are valid");
    for (CLI::App* app : {&init, &issue, &rotate, &revoke, &show}) {
      app->add_option("--dir", command_.directory, "where the files are (default /etc/mose/pki)");
    }
    for (CLI::App* app : {&init, &issue, &rotate}) {
      const unsigned usual = app == &init ? kDaysOfAuthority : kDaysOfNode;
      app->add_option("--days", command_.days, "how long it is valid (default " + std::to_string(usual) + ")")->check(CLI::Range(1u, kDaysMax));
      app->parse_complete_callback([this, usual] {
        if (command_.days == 0) command_.days = usual;
      });
    }
    for (CLI::App* app : {&issue, &rotate}) {
      app->add_option("name", command_.subject, "name of the node, as in node.name")->required();
      app->add_option("--roles", command_.roles, "source, destination or both, by commas (default: both; rotate: as before)")->delimiter(',');
    }
    revoke.add_option("name", command_.subject, "name of the node, or the file of a certificate (.crt, or a path)")->required();
    show.add_option("file", command_.subject, "a certificate, or the name of a node (default: all of --dir)");
  }

  Command& command_;
  CLI::App app_;
};

// The chosen subcommand, "steer show"; empty: none.
std::string chosen(const CLI::App*& app) {
  std::string path;
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    path += (path.empty() ? "" : " ") + app->get_name();
  }
  return path;
}

// CLI11 says of an unknown verb only that one is required. Nothing: it is another mistake.
std::optional<std::string> verb_problem(const CLI::App& root) {
  const CLI::App* app = &root;
  std::string path = chosen(app);
  std::string known;
  for (const CLI::App* sub : app->get_subcommands([](const CLI::App*) { return true; })) known += (known.empty() ? "" : ", ") + sub->get_name();
  if (known.empty()) return {};
  std::string problem = "a command is missing";
  for (const std::string& word : app->remaining()) {
    if (word.starts_with("-")) continue;
    problem = "unknown command \"" + word + "\"";
    break;
  }
  return (path.empty() ? "" : path + ": ") + problem + "; there are: " + known;
}

// CLI11's sentence with where to find more.
std::string option_problem(const CLI::App& root, const CLI::ParseError& error) {
  const CLI::App* app = &root;
  std::string path = chosen(app);
  std::string problem = error.what();
  while (problem.ends_with('\n') || problem.ends_with('.')) problem.pop_back();
  return problem + "; see mose " + (path.empty() ? "" : path + " ") + "--help";
}

// Everything behind the first "--" is the workload's command, whatever it looks like.
std::vector<std::string> split_command(std::vector<std::string>& arguments) {
  auto separator = std::find(arguments.begin(), arguments.end(), "--");
  if (separator == arguments.end()) return {};
  std::vector<std::string> command(separator + 1, arguments.end());
  arguments.erase(separator, arguments.end());
  return command;
}

}  // namespace

Parsed usage_error(const std::string& text, bool json) {
  constexpr int kUsage = 2;
  std::string out;
  if (json) {
    nlohmann::json object{{"error", {{"exit_code", kUsage}, {"reason", text}}}};
    out = object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return {std::nullopt, kUsage, out, "mose: " + text + "\n"};
}

Parsed parse_command_line(const std::vector<std::string>& arguments) {
  Command command;
  // The lab has options of its own: they are its business.
  if (!arguments.empty() && arguments[0] == "lab") {
    command.verb = Verb::lab;
    command.lab_arguments.assign(arguments.begin() + 1, arguments.end());
    return {command, 0, "", ""};
  }
  std::vector<std::string> rest = arguments;
  std::vector<std::string> behind = split_command(rest);
  Grammar grammar(command);
  const bool json = std::find(rest.begin(), rest.end(), "--json") != rest.end();
  auto usage = [json](const std::string& text) { return usage_error(text, json); };
  try {
    grammar.parse(rest);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      std::ostringstream out, err;
      grammar.app().exit(error, out, err);
      return {std::nullopt, 0, out.str(), err.str()};
    }
    bool required = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::RequiredError);
    auto problem = required ? verb_problem(grammar.app()) : std::nullopt;
    return usage(problem ? *problem : option_problem(grammar.app(), error));
  }
  if (command.verb != Verb::run && !behind.empty()) return usage("only run takes a command after --");
  if (command.verb == Verb::run && behind.empty())
    return usage("a command is missing: mose run NAME --address A -- CMD");
  if (auto strategy = parse_strategy(command.strategy); strategy && command.auto_converge) {
    if (auto may = may_converge(*strategy); !may) return usage(may.error().what);
  }
  command.command = std::move(behind);
  return {command, 0, "", ""};
}

}  // namespace mose::cli
