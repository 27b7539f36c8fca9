// SPDX-License-Identifier: MIT
#include "agent/migrations.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "agent/away_network.h"
#include "agent/check.h"
#include "agent/migration_paths.h"
#include "agent/peer_query.h"
#include "base/heap.h"
#include "base/log.h"
#include "kernel/socket.h"
#include "handover/tap_holder.h"
#include "restore/canary.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kCriuRetry = std::chrono::seconds(30);  // after CRIU could not be made ready
// Several copies of CRIU's images at once (1.2 MB for a service of some hundred mappings), on both sides of a move.
constexpr size_t kHeapKept = 24u << 20;

}  // namespace

Result<std::unique_ptr<MigrationService>> make_migration_service(Core& core) {
  MOSE_ASSIGN(std::unique_ptr<MigrationService> service, Migrations::create(core));
  return service;
}

Migrations::Migrations(Core& core)
    : core_(core), context_{core, nullptr, kCriuBeingPrepared, true,
                            move::local_hello(core.config.node.name, move::Purpose::unspecified), {}} {
  context_.progress = [this](const MigrationProgress& progress) {
    if (listener_.on_progress) listener_.on_progress(progress);
  };
}

Migrations::~Migrations() {
  *alive_ = false;
  server_.reset();
  loose_.clear();
}

Result<std::unique_ptr<Migrations>> Migrations::create(Core& core) {
  keep_heap(kHeapKept);
  std::unique_ptr<Migrations> service(new Migrations(core));
  PeerServer::Handlers handlers;
  handlers.accept = [raw = service.get()](const move::StreamId& stream, const move::Hello& hello, const move::NodeCertificate* certificate) {
    return raw->accept(stream, hello, certificate);
  };
  handlers.on_connection = [raw = service.get()](PeerServer::Incoming incoming) { raw->on_connection(std::move(incoming)); };
  handlers.is_known = [&peers = core.config.peers](const std::string& host) {
    return std::ranges::any_of(peers, [&](const auto& peer) { return host_of(peer.second.address) == host; });
  };
  MOSE_ASSIGN(service->server_, PeerServer::listen(core.loop, core.config.node.listen, service->context_.hello, std::move(handlers),
                                                   PeerServer::kHelloBound, core.peers.tls()));
  service->prepare_criu();
  return service;
}

void Migrations::prepare_criu() {
  struct Prepared {
    std::shared_ptr<const restore::CriuSetup> criu;
    std::string problem;
    restore::CanaryResult canary;
  };
  restore::CanaryOptions options;
  options.cgroup_path = core_.config.node.cgroup + "/mose-canary";
  // Not below runtime_dir: its root needs a device node, and /run is mounted nodev on most hosts.
  options.scratch = core_.config.node.state_dir + "/canary";
  core_.workers.run(
      [criu = core_.config.node.criu, options] {
        Prepared out;
        restore::CriuSetup::Options setup_options;
        setup_options.criu = criu;
        auto setup = restore::CriuSetup::prepare(setup_options);
        if (!setup) {
          out.problem = setup.error().what;
          return out;
        }
        out.criu = std::make_shared<const restore::CriuSetup>(std::move(*setup));
        out.canary = restore::run_canary(*out.criu, options);
        if (!out.canary.works) {
          out.problem = "CRIU cannot dump without memory on this host: " + out.canary.reason;
          out.criu = nullptr;
        }
        return out;
      },
      [this, alive = alive_](Prepared prepared) {
        if (!*alive) return;
        context_.criu = std::move(prepared.criu);
        context_.criu_problem = prepared.problem;
        if (context_.criu) {
          context_.hello.criu_version = context_.criu->version();
          log::info("CRIU is ready", {{"version", context_.criu->version()}, {"canary_ms", prepared.canary.dump_ms}});
        } else {
          log::error("workloads cannot be moved", {{"reason", prepared.problem}});
          // A canary may have died for a reason that passes.
          core_.loop.after(kCriuRetry, [this, alive] {
            if (*alive) prepare_criu();
          });
        }
        criu_has_been_tried();
      });
}

// Arrivals that wait for a name as well go on waiting for that.
void Migrations::criu_has_been_tried() {
  criu_tried_ = true;
  if (!server_) return;  // nothing is begun any more
  const log::ForMigration of_none({});
  while (!waiting_for_criu_.empty()) {
    for (const auto& next : std::exchange(waiting_for_criu_, {})) next();
  }
  std::vector<std::string> held;
  for (const auto& [workload, arrival] : waiting_arrivals_) held.push_back(workload);
  for (const std::string& workload : held) begin_waiting_arrival(workload);
}

void Migrations::when_criu_is_tried(std::function<void()> next) {
  if (criu_tried_) return next();
  waiting_for_criu_.push_back(std::move(next));
}

Answer<void> Migrations::check_start(const std::string& workload, const std::string& node) const {
  const Workload* found = core_.workloads.find(workload);
  if (!found) return refuse(fmt::format("workload \"{}\" is unknown on node {}: see `mose workloads`", workload, core_.config.node.name), kExitUsage);
  if (found->origin == WorkloadOrigin::described) {
    return refuse(fmt::format("workload {} was started by others: its network, cgroup and log are not ones that can be handed "
                              "over. Start it with `mose run` to move it", workload));
  }
  if (node == core_.config.node.name) return refuse(fmt::format("workload {} is already on node {}", workload, node));
  if (!core_.config.peers.contains(node)) {
    return refuse(fmt::format("node \"{}\" is unknown here: add [peers.{}] to the configuration", node, node), kExitUsage);
  }
  if (!journal_problem_.empty()) return refuse(unread_journals());
  if (found->state != WorkloadState::running) {
    std::string more = found->state == WorkloadState::away ? " (it went to node " + found->node + ")" : "";
    return refuse(fmt::format("workload {} is {}{}: only a running one can be moved", workload, to_string(found->state), more));
  }
  if (const DestinationMigration* arrival = arrival_of(workload); arrival && !arrival->memory_complete()) {
    return refuse(fmt::format("the memory of workload {} is still arriving from node {}: try again when `mose status` is empty", workload,
                              arrival->meta().peer));
  }
  if (sources_.size() + destinations_.size() >= core_.config.limits.migrations_max) {
    return refuse(fmt::format("{} migrations are under way on node {}: wait for one to end", sources_.size() + destinations_.size(), core_.config.node.name));
  }
  if (!context_.criu) return refuse(context_.criu_problem);
  return {};
}

const DestinationMigration* Migrations::arrival_of(const std::string& workload) const {
  for (const auto& [id, arrival] : destinations_) {
    if (arrival->meta().workload == workload && !arrival->ended()) return arrival.get();
  }
  return nullptr;
}

SourceMigration::Handlers Migrations::source_handlers(const MigrationId& id) {
  SourceMigration::Handlers handlers;
  handlers.on_end = [this](const MigrationEnd& end) { on_end(end); };
  handlers.on_alarm = [this](const MigrationEnd& end) { add_to_history(end.report_json); };
  handlers.on_gone = [this, id] {
    core_.loop.post([this, id, alive = alive_] {
      if (!*alive) return;
      auto it = sources_.find(id);
      if (it == sources_.end()) return;
      std::string workload = it->second->progress().workload;
      keep_if_undone(id, Role::source, it->second->reason());
      sources_.erase(it);
      name_is_free(workload);
      if (shut_down_done_ && sources_.empty()) shut_down_done_();
    });
  };
  return handlers;
}

DestinationMigration::Handlers Migrations::destination_handlers(const MigrationId& id) {
  DestinationMigration::Handlers handlers;
  handlers.on_end = [this](const MigrationEnd& end) {
    on_end(end);
    if (auto waiting = waiting_departures_.extract(end.workload)) waiting.mapped()();
  };
  handlers.on_gone = [this, id] {
    core_.loop.post([this, id, alive = alive_] {
      if (!*alive) return;
      auto it = destinations_.find(id);
      if (it == destinations_.end()) return;
      std::string workload = it->second->meta().workload;
      keep_if_undone(id, Role::destination, it->second->reason());
      destinations_.erase(it);
      name_is_free(workload);
    });
  };
  return handlers;
}

void Migrations::on_end(const MigrationEnd& end) {
  ended_.add(end);
  add_to_history(end.report_json);
  if (listener_.on_end) listener_.on_end(end);
}

void Migrations::add_to_history(const std::string& report_json) {
  if (auto added = core_.history.add(report_json); !added) log::warn("the history could not be written", {{"reason", added.error().what}});
}

Answer<MigrationId> Migrations::start(const std::string& workload, const std::string& node, const MigrationOptions& options) {
  if (options.max_downtime.count() != 0 || options.max_total.count() != 0) {
    return refuse("--max-downtime and --max-total need the planner's predictions, which this version does not make: leave them out");
  }
  if (auto possible = check_start(workload, node); !possible) return std::unexpected(possible.error());
  MigrationId id = MigrationId::random();
  const log::ForMigration named(id.hex());
  if (auto moving = core_.workloads.begin_move(workload, id); !moving) return std::unexpected(moving.error());
  const Workload* found = core_.workloads.find(workload);
  JournalMeta meta{id, Role::source, workload, node, core_.config.peers.at(node).address, 1};
  auto migration = std::make_unique<SourceMigration>(context_, meta, found->spec, found->init, options, source_handlers(id));
  SourceMigration& started = *migration;
  sources_[id] = std::move(migration);
  auto begin = [this, id, &started, alive = alive_] {
    if (*alive && sources_.contains(id)) started.begin();
  };
  // Callbacks never before this call has returned; and never before an arrival that is complete has tidied up.
  if (arrival_of(workload)) waiting_departures_[workload] = begin;
  else core_.loop.post(begin);
  return id;
}

Answer<void> Migrations::cancel(const MigrationId& id) {
  auto it = sources_.find(id);
  if (it == sources_.end()) {
    if (destinations_.contains(id)) return refuse("this node is the destination of that migration: cancel it at its source");
    return refuse(fmt::format("no migration {} is under way here", id.hex()), kExitUsage);
  }
  if (!it->second->before_commit()) return refuse("the migration is past its commit point: it only goes forward");
  it->second->cancel();
  return {};
}

void Migrations::preflight(const std::string& workload, const std::string& node,
                           std::function<void(Answer<std::vector<std::string>>)> done) {
  auto possible = check_start(workload, node);
  if (!possible) {
    core_.loop.post([refusal = possible.error(), done = std::move(done)] {
      if (refusal.exit_code == kExitUsage) return done(std::unexpected(refusal));
      done(std::vector<std::string>{refusal.reason});
    });
    return;
  }
  const Workload* found = core_.workloads.find(workload);
  JournalMeta meta{MigrationId::random(), Role::source, workload, node, core_.config.peers.at(node).address, 1};
  core_.workers.run(
      [&config = core_.config, spec = found->spec, init = found->init, cgroup = found->cgroup, meta,
       hello = context_.hello, &peers = core_.peers, bound = core_.config.limits.peer_connect_max] {
        auto reasons = check_workload(spec, *init, cgroup);
        if (auto link = connect_to_peer(peers, meta, hello, bound); !link) reasons.push_back(link.error().what);
        if (auto path = path_to_peer(config, spec.name, meta.peer); !path) reasons.push_back(path.error().what);
        return reasons;
      },
      [done = std::move(done)](std::vector<std::string> reasons) { done(std::move(reasons)); });
}

void Migrations::after_departure(const std::string& workload, std::function<void()> next) {
  const Workload* found = core_.workloads.find(workload);
  // One that is still moving is refused by its name.
  bool away = found != nullptr && found->state == WorkloadState::away;
  if (!(away && is_leaving(workload)) && !is_given_up(workload)) return next();
  waiting_starts_.emplace(workload, std::move(next));
}

bool Migrations::is_leaving(const std::string& workload) const {
  return departing_.contains(workload) ||
         std::ranges::any_of(sources_, [&](const auto& entry) { return entry.second->progress().workload == workload; });
}

bool Migrations::is_given_up(const std::string& workload) const {
  return std::ranges::any_of(
      destinations_, [&](const auto& entry) { return entry.second->meta().workload == workload && entry.second->given_up(); });
}

void Migrations::workload_ended(const std::string& workload, const std::string& how) {
  for (const auto& [id, arrival] : destinations_) {
    if (arrival->meta().workload == workload && !arrival->ended()) arrival->tree_ended(how);
  }
}

// For those who wait for it.
void Migrations::name_is_free(const std::string& workload) {
  const log::ForMigration of_none({});
  begin_waiting_arrival(workload);
  while (auto waiting = waiting_starts_.extract(workload)) waiting.mapped()();
}

std::vector<MigrationProgress> Migrations::list() const {
  std::vector<MigrationProgress> out;
  out.reserve(sources_.size() + destinations_.size());
  for (const auto& [id, migration] : sources_) out.push_back(migration->progress());
  for (const auto& [id, migration] : destinations_) out.push_back(migration->progress());
  for (const Undecided& undecided : undecided_) out.push_back(progress_of(undecided));
  return out;
}

ServiceFigures Migrations::figures() const {
  ServiceFigures out;
  for (const auto& [id, migration] : sources_) out.migrations.push_back(migration->figures());
  for (const auto& [id, migration] : destinations_) out.migrations.push_back(migration->figures());
  for (const Undecided& undecided : undecided_) out.migrations.push_back({.progress = progress_of(undecided), .undecided = true});
  out.ended = &ended_;
  out.refused = server_ ? server_->refused() : refused_;
  out.listening = server_ != nullptr;
  out.journal_problem = journal_problem_;
  if (auto usable = core_.peers.check_files(); !usable) out.certificate_problem = usable.error().what;
  if (!context_.criu) out.criu_problem = context_.criu_problem;
  return out;
}

Answer<std::string> Migrations::show(const MigrationId& id) const {
  if (auto it = sources_.find(id); it != sources_.end()) return it->second->report_json();
  if (auto it = destinations_.find(id); it != destinations_.end()) return it->second->report_json();
  auto found = core_.history.find(id.hex());
  if (!found) return refuse(found.error().what, kExitUsage);
  return *found;
}

void Migrations::shut_down(std::function<void()> done) {
  waiting_for_criu_.clear();
  if (server_) refused_ = server_->refused();
  server_.reset();
  bool waiting = false;
  for (auto& [id, migration] : destinations_) migration->forget_if_over();
  for (auto& [id, migration] : sources_) {
    if (!migration->before_commit()) continue;
    migration->cancel();
    waiting = true;
  }
  if (!waiting) return core_.loop.post(std::move(done));
  shut_down_done_ = std::move(done);
}

}  // namespace mose::agent
