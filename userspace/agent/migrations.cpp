// SPDX-License-Identifier: MIT
#include "agent/migrations.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "agent/away_network.h"
#include "agent/check.h"
#include "agent/migration_paths.h"
#include "agent/peer_query.h"
#include "base/heap.h"
#include "base/log.h"
#include "handover/tap_holder.h"
#include "restore/canary.h"

namespace mose::agent {
namespace {

// An answer that nobody waits for any more is dropped after that.
constexpr Nanoseconds kLooseMax = std::chrono::seconds(5);
constexpr Nanoseconds kCriuRetry = std::chrono::seconds(30);  // after CRIU could not be made ready
constexpr Nanoseconds kRemoveBound = std::chrono::seconds(5);  // for the resources of a workload that has left
// Several copies of CRIU's images at once (1.2 MB for a service of some hundred mappings), on both sides of a move.
constexpr size_t kHeapKept = 24u << 20;

// As this workload's own migration: everything of it is at the destination, and no process is left here.
bool has_left(const JournalContents& contents, const Workload* workload) {
  if (workload == nullptr || workload->init || workload->migration != contents.meta.id.hex()) return false;
  // Only what was committed is ever complete.
  return std::find(contents.records.begin(), contents.records.end(), plan::Record::complete) != contents.records.end();
}

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
  handlers.accept = [raw = service.get()](const move::StreamId& stream, const move::Hello& hello) { return raw->accept(stream, hello); };
  handlers.on_connection = [raw = service.get()](PeerServer::Incoming incoming) { raw->on_connection(std::move(incoming)); };
  MOSE_ASSIGN(service->server_, PeerServer::listen(core.loop, core.config.node.listen, service->context_.hello, std::move(handlers)));
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
      });
}

Answer<void> Migrations::check_start(const std::string& workload, const std::string& node) const {
  const Workload* found = core_.workloads.find(workload);
  if (!found) return refuse(fmt::format("workload \"{}\" is unknown on node {}: see `mose workloads`", workload, core_.config.node.name), kExitUsage);
  if (node == core_.config.node.name) return refuse(fmt::format("workload {} is already on node {}", workload, node));
  if (!core_.config.peers.contains(node)) {
    return refuse(fmt::format("node \"{}\" is unknown here: add [peers.{}] to the configuration", node, node), kExitUsage);
  }
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
  handlers.on_gone = [this, id] {
    core_.loop.post([this, id, alive = alive_] {
      if (!*alive) return;
      auto it = sources_.find(id);
      if (it == sources_.end()) return;
      std::string workload = it->second->progress().workload;
      keep_if_undone(id, Role::source, it->second->reason());
      sources_.erase(it);
      if (auto waiting = waiting_arrivals_.extract(workload)) waiting.mapped()();
      while (auto waiting = waiting_starts_.extract(workload)) waiting.mapped()();
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
      if (auto waiting = waiting_arrivals_.extract(workload)) waiting.mapped()();
    });
  };
  return handlers;
}

// With its journal it waits for `mose recover`, and for the eyes of whoever asks for the status.
void Migrations::keep_if_undone(const MigrationId& id, Role role, const std::string& reason) {
  if (journal_exists(id, role)) undecided_.push_back({id, role, reason});
}

void Migrations::on_end(const MigrationEnd& end) {
  if (auto added = core_.history.add(end.report_json); !added) log::warn("the history could not be written", {{"reason", added.error().what}});
  if (listener_.on_end) listener_.on_end(end);
}

Answer<MigrationId> Migrations::start(const std::string& workload, const std::string& node, const MigrationOptions& options) {
  if (options.max_downtime.count() != 0 || options.max_total.count() != 0) {
    return refuse("--max-downtime and --max-total need the planner's predictions, which this version does not make: leave them out");
  }
  if (auto possible = check_start(workload, node); !possible) return std::unexpected(possible.error());
  MigrationId id = MigrationId::random();
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
    if (destinations_.contains(id)) return refuse("this node is the destination of that migration: cancel it at its source", 1);
    return refuse(fmt::format("no migration {} is under way here", id.hex()), kExitUsage);
  }
  if (!it->second->before_commit()) return refuse("the migration is past its commit point: it only goes forward", 1);
  it->second->cancel();
  return {};
}

void Migrations::recover(const MigrationId& id, std::function<void(Answer<std::string>)> done) {
  auto source = sources_.find(id);
  auto destination = destinations_.find(id);
  std::string text;
  Refusal refusal{kExitUsage, fmt::format("no migration {} is undecided here", id.hex())};
  if (source != sources_.end()) {
    text = fmt::format("migration {} goes on by itself at its source: {}", id.hex(), source->second->progress().phase);
  } else if (destination != destinations_.end()) {
    destination->second->ask_now();
    text = fmt::format("node {} is asked how migration {} was decided", destination->second->meta().peer, id.hex());
  } else {
    // It has ended without everything done, or its journal could not be used: once more from the journal.
    for (Role role : {Role::source, Role::destination}) {
      if (!journal_exists(id, role)) continue;
      std::erase_if(undecided_, [&](const Undecided& u) { return u.id == id && u.role == role; });
      std::string path = Journal::file_path(core_.journal_dir, id, role);
      if (recover_one({path, id, role, read_journal(path)})) {
        text = fmt::format("migration {} goes on from its journal", id.hex());
      } else {
        refusal = {1, fmt::format("migration {} stays undecided: {}", id.hex(), undecided_.back().reason)};
      }
    }
  }
  core_.loop.post([text, refusal, done = std::move(done)] {
    if (text.empty()) return done(std::unexpected(refusal));
    done(text);
  });
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
       hello = context_.hello, bound = core_.config.limits.peer_connect_max] {
        auto reasons = check_workload(spec, *init, cgroup);
        if (auto link = connect_to_peer(meta, hello, bound); !link) reasons.push_back(link.error().what);
        if (auto path = path_to_peer(config, spec.name, meta.peer); !path) reasons.push_back(path.error().what);
        return reasons;
      },
      [done = std::move(done)](std::vector<std::string> reasons) { done(std::move(reasons)); });
}

void Migrations::after_departure(const std::string& workload, std::function<void()> next) {
  const Workload* found = core_.workloads.find(workload);
  // One that is still moving is refused by its name.
  bool away = found != nullptr && found->state == WorkloadState::away;
  for (const auto& [id, leaving] : sources_) {
    if (!away || leaving->progress().workload != workload) continue;
    waiting_starts_.emplace(workload, std::move(next));
    return;
  }
  next();
}

std::vector<MigrationProgress> Migrations::list() const {
  std::vector<MigrationProgress> out;
  out.reserve(sources_.size() + destinations_.size());
  for (const auto& [id, migration] : sources_) out.push_back(migration->progress());
  for (const auto& [id, migration] : destinations_) out.push_back(migration->progress());
  for (const Undecided& undecided : undecided_) out.push_back(progress_of(undecided));
  return out;
}

const Workload* Migrations::workload_of(const MigrationId& id) const {
  for (const Workload* workload : core_.workloads.list()) {
    if (workload->migration == id.hex()) return workload;
  }
  return nullptr;
}

MigrationProgress Migrations::progress_of(const Undecided& undecided) const {
  MigrationProgress progress;
  progress.id = undecided.id;
  progress.role = undecided.role;
  progress.before_commit = false;
  if (const Workload* workload = workload_of(undecided.id)) progress.workload = workload->spec.name;
  (undecided.role == Role::source ? progress.source : progress.destination) = core_.config.node.name;
  const std::string id = undecided.id.hex(), path = Journal::file_path(core_.journal_dir, undecided.id, undecided.role);
  if (journal_exists(undecided.id, undecided.role)) {
    progress.phase = fmt::format(
        "undecided: {}; `mose recover {}` tries again; when it is clear on which node the workload is to run, move {} to "
        "another directory before that",
        undecided.reason, id, path);
  } else {
    progress.phase = fmt::format("undecided: its journal {} is gone; `mose recover {}` forgets it", path, id);
  }
  return progress;
}

std::optional<std::string> Migrations::forget_gone(const MigrationId& id) {
  const size_t forgotten =
      std::erase_if(undecided_, [&](const Undecided& u) { return u.id == id && !journal_exists(u.id, u.role); });
  if (forgotten == 0) return std::nullopt;
  std::string sentence = fmt::format("migration {} is forgotten: its journal is gone", id.hex());
  const Workload* workload = workload_of(id);
  if (workload == nullptr) return sentence;
  const std::string name = workload->spec.name, cgroup = workload->cgroup;
  if (workload->state == WorkloadState::arriving) {
    core_.workloads.forget_arrival(name);
    return sentence +
           fmt::format("; what has arrived of workload {} is left in {}: write 1 to its cgroup.kill to end it", name,
                       cgroup);
  }
  if (auto stays = core_.workloads.stay(name); !stays) return sentence + "; " + stays.error().what;
  return sentence + fmt::format(
                        "; workload {} counts as running here: if it stands still, write 0 to cgroup.freeze in {} and "
                        "run `mose steer release {}`",
                        name, cgroup, name);
}

Answer<std::string> Migrations::show(const MigrationId& id) const {
  if (auto it = sources_.find(id); it != sources_.end()) return it->second->report_json();
  if (auto it = destinations_.find(id); it != destinations_.end()) return it->second->report_json();
  auto found = core_.history.find(id.hex());
  if (!found) return refuse(found.error().what, kExitUsage);
  return *found;
}

void Migrations::recover_all() {
  auto entries = list_journals(core_.journal_dir);
  if (!entries) {
    log::error("the journals cannot be read", {{"reason", entries.error().what}});
    return;
  }
  for (JournalEntry& entry : *entries) (void)recover_one(std::move(entry));
}

// We killed the tree, and died before the rest was done: nothing is left to be served.
void Migrations::finish_departure(const JournalMeta& meta) {
  WorkloadSpec spec = core_.workloads.find(meta.workload)->spec;
  if (auto left = core_.workloads.leave(meta.workload, meta.peer); !left) {
    log::error("the workload's state could not be written", {{"workload", meta.workload}, {"reason", left.error().what}});
  }
  core_.workers.run(
      [&config = core_.config, spec, id = meta.id] {
        std::error_code error;
        handover::TapHolder::end_left(migration_paths(config, id).ingress_holder);
        std::filesystem::remove_all(migration_paths(config, id).dir, error);
        return remove_workload_resources(config, spec, kRemoveBound, LeftNetwork::stays);
      },
      [this, meta](const Status& removed) {
        if (removed) {
          (void)remove_journal(core_.journal_dir, meta.id, Role::source);
        } else {
          log::warn("what a workload has left could not be removed", {{"workload", meta.workload}, {"reason", removed.error().what}});
        }
      });
}

bool Migrations::journal_exists(const MigrationId& id, Role role) const {
  std::error_code error;
  return std::filesystem::exists(Journal::file_path(core_.journal_dir, id, role), error);
}

bool Migrations::recover_one(JournalEntry entry) {
  auto give_up = [&](const std::string& reason) {
    log::error("a migration cannot be decided from its journal and stays as it is until `mose recover`", {{"journal", entry.path}, {"reason", reason}});
    undecided_.push_back({entry.id, entry.role, reason});
    return false;
  };
  if (!entry.contents) return give_up("its journal is damaged: " + entry.contents.error().what);
  auto journal = Journal::open(core_.journal_dir, entry.id, entry.role);
  if (!journal) return give_up("its journal cannot be opened: " + journal.error().what);
  const JournalContents& contents = journal->contents();
  if (entry.role == Role::source && has_left(contents, core_.workloads.find(contents.meta.workload))) {
    finish_departure(contents.meta);
    return true;
  }
  if (contents.records.empty() || contents.records.back() == plan::Record::finished) {
    (void)remove_journal(core_.journal_dir, entry.id, entry.role);
    return true;
  }
  log::warn("a migration was interrupted", {{"migration", entry.id.hex()}, {"role", to_string(entry.role)}, {"workload", contents.meta.workload},
                                            {"record", plan::to_string(contents.records.back())}});
  if (entry.role == Role::source) {
    const Workload* workload = core_.workloads.find(contents.meta.workload);
    // A tree that has ended meanwhile (the machine was started again, for one) changes nothing of what was decided.
    if (!workload || workload->migration != entry.id.hex()) return give_up("its workload " + contents.meta.workload + " is not here");
    auto migration = std::make_unique<SourceMigration>(context_, contents.meta, workload->spec, workload->init, MigrationOptions{}, source_handlers(entry.id));
    SourceMigration& recovered = *migration;
    sources_[entry.id] = std::move(migration);
    recovered.recover(std::move(*journal));
    return true;
  }
  auto note = contents.notes.find("prepare");
  auto bytes = note == contents.notes.end() ? Result<std::string>(fail("it has no PREPARE")) : from_hex(note->second);
  auto payload = bytes ? decode_prepare(*bytes) : Result<PreparePayload>(std::unexpected(bytes.error()));
  if (!payload) return give_up("its journal cannot be used: " + payload.error().what);
  auto migration = std::make_unique<DestinationMigration>(context_, contents.meta, std::move(*payload), destination_handlers(entry.id));
  DestinationMigration& recovered = *migration;
  destinations_[entry.id] = std::move(migration);
  recovered.recover(std::move(*journal));
  return true;
}

void Migrations::shut_down(std::function<void()> done) {
  server_.reset();
  bool waiting = false;
  for (auto& [id, migration] : sources_) {
    if (!migration->before_commit()) continue;
    migration->cancel();
    waiting = true;
  }
  if (!waiting) return core_.loop.post(std::move(done));
  shut_down_done_ = std::move(done);
}

Status Migrations::accept(const move::StreamId& stream, const move::Hello& hello) const {
  if (!core_.config.peers.contains(hello.node)) {
    return fail(fmt::format("node {} does not know node \"{}\": add [peers.{}] to its configuration", core_.config.node.name, hello.node, hello.node));
  }
  if (hello.purpose != move::Purpose::bulk && hello.purpose != move::Purpose::urgent) return {};
  auto it = sources_.find(stream.migration);
  if (it == sources_.end() || !it->second->accepts(hello.token)) return fail("no such migration here");
  return {};
}

void Migrations::on_connection(PeerServer::Incoming incoming) {
  switch (incoming.hello.purpose) {
    case move::Purpose::bulk:
    case move::Purpose::urgent:
      if (auto it = sources_.find(incoming.stream.migration); it != sources_.end()) {
        it->second->attach(incoming.hello, std::move(incoming.socket));
      }
      return;
    case move::Purpose::control:
    case move::Purpose::query:
      break;
    case move::Purpose::unspecified:
      return;
  }
  auto connection = std::make_unique<PeerConnection>(core_.loop, std::move(incoming.socket), incoming.stream, incoming.hello.node);
  connection->limit_images(core_.config.limits.images_bytes_max);
  PeerConnection* raw = connection.get();
  const uint64_t number = loose_next_++;
  loose_[number] = std::move(connection);
  PeerConnection::Handlers handlers;
  handlers.on_frame = [this, number, stream = incoming.stream](wire::FrameType type, const std::string& payload) {
    auto node = loose_.extract(number);
    if (node) on_first_frame(std::move(node.mapped()), stream, type, payload);
  };
  handlers.on_closed = [this, number](const std::string&) {
    core_.loop.post([this, number, alive = alive_] {
      if (*alive) loose_.erase(number);
    });
  };
  if (!raw->open(std::move(handlers))) loose_.erase(number);
  core_.loop.after(kLooseMax, [this, number, alive = alive_] {
    if (*alive) loose_.erase(number);
  });
}

void Migrations::on_first_frame(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream, wire::FrameType type,
                                const std::string& payload) {
  if (type == wire::FrameType::query_verdict) {
    connection->send(wire::FrameType::verdict, encode_verdict(verdict_of(stream.migration)));
    auto asked_about = sources_.find(stream.migration);
    if (asked_about != sources_.end() && asked_about->second->meta().peer == connection->peer_node()) {
      asked_about->second->end_retry_pause();
    }
    return answer_stray(std::move(connection), stream.migration, wire::FrameType::invalid);
  }
  auto it = destinations_.find(stream.migration);
  if (it != destinations_.end() && it->second->meta().peer != connection->peer_node()) {
    log::warn("a node speaks for a migration that is not its own", {{"node", connection->peer_node()}, {"migration", stream.migration.hex()}});
    return;
  }
  if (it != destinations_.end()) {
    // The source again, after a loss: its first frame is its verdict.
    it->second->adopt_connection(std::move(connection));
    it->second->on_frame(type, payload);
    return;
  }
  if (type == wire::FrameType::prepare) return begin_arrival(std::move(connection), stream, payload);
  answer_stray(std::move(connection), stream.migration, type);
}

// The workload may just have left this node: its network still redirects stragglers. Or an arrival of it has been given
// up, whose source is free for the next attempt before everything is thrown away here.
bool Migrations::name_is_being_freed(const std::string& workload, const std::string& source) const {
  for (const auto& [id, leaving] : sources_) {
    if (leaving->progress().workload == workload) return true;
  }
  return std::ranges::any_of(destinations_, [&](const auto& entry) {
    const DestinationMigration& arrival = *entry.second;
    return arrival.meta().workload == workload && arrival.meta().peer == source && !arrival.arrives_for_good();
  });
}

void Migrations::begin_arrival(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream, const std::string& payload) {
  auto prepare = decode_prepare(payload);
  if (!prepare) {
    connection->send(wire::FrameType::refused, encode_reason(prepare.error().what));
    return answer_stray(std::move(connection), stream.migration, wire::FrameType::invalid);
  }
  if (name_is_being_freed(prepare->spec.name, connection->peer_node())) {
    auto shared = std::make_shared<std::unique_ptr<PeerConnection>>(std::move(connection));
    waiting_arrivals_[prepare->spec.name] = [this, shared, stream, payload] { begin_arrival(std::move(*shared), stream, payload); };
    return;
  }
  // Its clients come by this segment for good: without that network they would wait until it has arrived.
  if (away_network_kept(core_.config, prepare->spec.name)) {
    connection->send(
        wire::FrameType::refused,
        encode_reason(fmt::format(
            "node {} still redirects the packets of {} by VXLAN: end that with `mose steer release {}` there, from "
            "when on its clients wait until it has arrived",
            core_.config.node.name, prepare->spec.name, prepare->spec.name)));
    return answer_stray(std::move(connection), stream.migration, wire::FrameType::invalid);
  }
  if (sources_.size() + destinations_.size() >= core_.config.limits.migrations_max) {
    connection->send(wire::FrameType::refused, encode_reason("too many migrations are under way: wait for one to end"));
    return answer_stray(std::move(connection), stream.migration, wire::FrameType::invalid);
  }
  JournalMeta meta{stream.migration, Role::destination, prepare->spec.name, connection->peer_node(),
                   core_.config.peers.at(connection->peer_node()).address, stream.epoch};
  auto migration = std::make_unique<DestinationMigration>(context_, meta, std::move(*prepare), destination_handlers(stream.migration));
  DestinationMigration& started = *migration;
  destinations_[stream.migration] = std::move(migration);
  started.begin(std::move(connection));
}

// A source that asks about a migration which has ended or never was here gets the answer that it waits for.
void Migrations::answer_stray(std::unique_ptr<PeerConnection> connection, const MigrationId& id, wire::FrameType type) {
  // A journal that could not be used: the tree that it speaks of may still be here, stopped.
  bool undecided = journal_exists(id, Role::destination);
  if (type == wire::FrameType::abort && undecided) {
    connection->send(wire::FrameType::failed, encode_reason("the journal of that migration cannot be used here: see `mose status`"));
  } else if (type == wire::FrameType::abort) {
    connection->send(wire::FrameType::aborted);
  }
  if (type == wire::FrameType::commit) {
    auto report = core_.history.find(id.hex());
    auto parsed = report ? report_from_json(*report) : Result<Report>(std::unexpected(report.error()));
    if (!undecided && parsed && parsed->outcome == to_string(Outcome::complete)) {
      connection->send(wire::FrameType::committed, encode_committed(0));
      connection->send(wire::FrameType::complete, encode_complete(*report));
    } else {
      connection->send(wire::FrameType::failed, encode_reason("no such migration here"));
    }
  }
  const uint64_t number = loose_next_++;
  loose_[number] = std::move(connection);
  core_.loop.after(kLooseMax, [this, number, alive = alive_] {
    if (*alive) loose_.erase(number);
  });
}

plan::Verdict Migrations::verdict_of(const MigrationId& id) const {
  if (auto it = sources_.find(id); it != sources_.end()) return it->second->verdict();
  // Ended here. A committed one ends only after its destination has said COMPLETE, so whoever still asks was aborted;
  // without any memory of it nothing is claimed.
  auto report = core_.history.find(id.hex());
  if (!report) return plan::Verdict::undecided;
  auto parsed = report_from_json(*report);
  if (!parsed) return plan::Verdict::undecided;
  bool stayed = parsed->outcome == to_string(Outcome::failed) || parsed->outcome == to_string(Outcome::cancelled) ||
                parsed->outcome == to_string(Outcome::refused);
  return stayed ? plan::Verdict::abort : plan::Verdict::undecided;
}

}  // namespace mose::agent
