// SPDX-License-Identifier: MIT
#include "agent/requests.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "agent/control_frames.h"
#include "agent/peer_query.h"
#include "agent/throttle.h"
#include "agent/version.h"
#include "base/log.h"
#include "mose/control/control.pb.h"
#include "sense/tracker.h"

namespace mose::agent {
namespace {

using control::v1::Request;
using control::v1::Response;

constexpr size_t kFollowersMax = 64;
constexpr unsigned kRoundsMax = 64;

void fill(control::v1::Workload& out, const Workload& workload) {
  out.set_name(workload.spec.name);
  out.set_state(to_string(workload.state));
  for (const ServiceAddress& address : workload.spec.addresses) out.add_addresses(format_with_prefix(address));
  out.set_pid(workload.init ? workload.init->pid() : 0);
  out.set_cgroup(workload.cgroup);
  out.set_root(workload.spec.root);
  for (const WorkloadMount& mount : workload.spec.mounts) {
    auto& item = *out.add_mounts();
    item.set_source(mount.source);
    item.set_target(mount.target);
    item.set_mode(std::string(to_string(mount.mode)));
    item.set_read_only(mount.read_only);
  }
  for (const std::string& word : workload.spec.command) out.add_command(word);
  out.set_origin(to_string(workload.origin));
  out.set_host_device(workload.host_device);
  out.set_log(workload.log);
  out.set_migration(workload.migration);
  out.set_node(workload.node);
  out.set_exit_status(workload.exit_status);
  out.set_since_unix_ms(workload.since_unix_ms);
}

void fill(control::v1::Memory& out, const MemoryWait& wait) {
  out.set_missing_pages(wait.missing_pages);
  out.set_missing_bytes(wait.missing_pages * kPageSize);
  out.set_alarm(alarming(wait, now()));
  out.set_waiting_faults(wait.waits.faults);
  if (wait.waits.faults != 0) out.set_waiting_since_unix_ms(to_unix_ms(wait.waits.since_us()));
  for (const WaitingPage& page : wait.waits.oldest) {
    auto& item = *out.add_waiting();
    item.set_process(page.space);
    item.set_address(page.page * kPageSize);
    item.set_since_unix_ms(to_unix_ms(page.since_us));
  }
  out.set_source_problem(wait.trouble.reason);
  if (!wait.trouble.reason.empty()) out.set_source_problem_since_unix_ms(to_unix_ms(wait.trouble.since_us));
}

void fill(control::v1::Progress& out, const MigrationProgress& progress) {
  out.set_migration_id(progress.id.hex());
  out.set_workload(progress.workload);
  out.set_source(progress.source);
  out.set_destination(progress.destination);
  out.set_role(std::string(to_string(progress.role)));
  out.set_phase(progress.phase);
  out.set_round(progress.round);
  out.set_bytes_done(progress.bytes_done);
  out.set_bytes_total(progress.bytes_total);
  out.set_before_commit(progress.before_commit);
  out.set_elapsed_ms(progress.elapsed_ms);
  if (progress.memory) fill(*out.mutable_memory(), *progress.memory);
}

void fill(control::v1::Recovery& out, const Recovery& recovery) {
  out.set_migration_id(recovery.id.hex());
  out.set_workload(recovery.workload);
  for (const RecoverySide& side : recovery.sides) {
    auto& item = *out.add_sides();
    item.set_node(side.node);
    item.set_role(std::string(to_string(side.role)));
    item.set_record(side.record);
    item.set_recorded_unix_ms(side.recorded_unix_ms);
    item.set_state(side.state);
  }
  out.set_action(to_string(recovery.choice.action));
  out.set_certain(recovery.choice.certain);
  out.set_what(recovery.choice.what);
  out.set_warning(recovery.choice.warning);
  out.set_confirm(!harmless(recovery.choice.action));
  out.set_done(recovery.done);
}

int64_t whole_ms(Nanoseconds duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

void fill(control::v1::Closed& out, const SteerRequests::Closed& closed) {
  out.set_workload(closed.workload);
  const bool known = closed.unknown.empty();
  out.set_ingress(known ? handover::to_string(closed.ingress) : "unknown");
  out.set_egress(known ? handover::to_string(closed.egress) : "unknown");
  out.set_reason(closed.unknown);
  out.set_since_ms(closed.since ? whole_ms(now() - *closed.since) : -1);
  out.set_expires_in_ms(closed.deadline ? std::max<int64_t>(whole_ms(*closed.deadline - now()), 0) : -1);
  out.set_unclaimed(closed.unclaimed);
}

void send_json(const Reply& reply, const std::string& text) {
  Response response;
  response.mutable_json()->set_text(text);
  reply.send(response, true);
}

void send_notes(const Reply& reply, const std::vector<std::string>& notes) {
  Response response;
  auto& done = *response.mutable_done();
  for (const std::string& note : notes) done.add_notes(note);
  reply.send(response, true);
}

void send_refusal(const Reply& reply, const Refusal& refusal) {
  reply.fail(refusal.exit_code, refusal.reason);
}

void send_workload(const Reply& reply, const Answer<const Workload*>& answer) {
  if (!answer) return send_refusal(reply, answer.error());
  Response response;
  fill(*response.mutable_workload(), **answer);
  reply.send(response, true);
}

Answer<WorkloadSpec> spec_of(const control::v1::Run& request) {
  WorkloadSpec spec;
  spec.name = request.name();
  for (const std::string& text : request.addresses()) {
    auto address = parse_service_address(text);
    if (!address) return refuse(address.error().what, 2);
    spec.addresses.push_back(*address);
  }
  spec.gateway = request.gateway();
  if (!spec.gateway.empty() && !parse_service_address(spec.gateway + "/32")) {
    return refuse(fmt::format("gateway \"{}\" is not an address", spec.gateway), 2);
  }
  if (!request.root().empty()) spec.root = request.root();
  for (const auto& item : request.mounts()) {
    auto mode = parse_mount_mode(item.mode());
    if (!mode) return refuse(mode.error().what, 2);
    spec.mounts.push_back({item.source(), item.target(), *mode, item.read_only()});
  }
  spec.command.assign(request.command().begin(), request.command().end());
  for (const std::string& entry : request.environment()) {
    if (entry.find('=') == std::string::npos || entry.front() == '=') {
      return refuse(fmt::format("\"{}\" is not an environment entry: NAME=VALUE", entry), 2);
    }
    spec.environment.push_back(entry);
  }
  if (auto status = validate(spec); !status) return refuse(status.error().what, 2);
  return spec;
}

Answer<MigrationOptions> options_of(const control::v1::Migrate& request) {
  MigrationOptions options;
  auto strategy = parse_strategy(request.strategy().empty() ? "auto" : request.strategy());
  if (!strategy) return refuse(strategy.error().what, 2);
  options.strategy = *strategy;
  options.max_total = Nanoseconds(request.max_total_ns());
  options.max_downtime = Nanoseconds(request.max_downtime_ns());
  options.max_bandwidth_bps = request.max_bandwidth_bps();
  if (request.rounds_max() > kRoundsMax) return refuse(fmt::format("at most {} rounds", kRoundsMax), 2);
  if (request.rounds_max() != 0) options.rounds_max = request.rounds_max();
  if (!request.objective().empty() && request.objective() != "downtime") {
    return refuse(fmt::format("objective \"{}\" is not available in this version; leave it out", request.objective()));
  }
  if (request.max_stall_ns() != 0)
    return refuse("a bound of stalls is not available in this version; leave --max-stall out");
  auto tracker = parse_tracker(request.tracker().empty() ? "auto" : request.tracker());
  if (!tracker) return refuse(tracker.error().what, 2);
  if (auto can = sense::can_track(*tracker); !can) return refuse(can.error().what);
  options.tracker = *tracker;
  auto steer = parse_steer_layer(request.steer().empty() ? "auto" : request.steer());
  if (!steer) return refuse(steer.error().what, 2);
  options.steer = *steer;
  if (!request.standby().empty() && request.standby() != "auto" && request.standby() != "never") {
    return refuse(fmt::format("standby \"{}\" is not known; use auto or never", request.standby()), 2);
  }
  options.standby = request.standby() != "never";
  if (request.auto_converge()) {
    if (auto may = may_converge(*strategy); !may) return refuse(may.error().what, 2);
    if (auto can = can_throttle(); !can) return refuse(can.error().what);
    options.auto_converge = true;
  }
  return options;
}

}  // namespace

Requests::Requests(Core& core, MigrationService& service, HostCheck probe_host)
    : core_(core), service_(service), steer_(core, service), probe_host_(std::move(probe_host)) {
  service_.subscribe({[this](const MigrationProgress& progress) { on_progress(progress); },
                      [this](const MigrationEnd& end) { on_end(end); }});
}

void Requests::handle(const Request& request, const Reply& reply) {
  if (ending_) return reply.fail(1, "the agent is about to end; try again when it is back");
  switch (request.body_case()) {
    case Request::kPing: {
      Response response;
      auto& pong = *response.mutable_pong();
      pong.set_version(kVersion);
      pong.set_node(core_.config.node.name);
      pong.set_pid(getpid());
      pong.set_protocol(1);
      return reply.send(response, true);
    }
    case Request::kRun:
      return run(request.run(), reply);
    case Request::kStop:
      return stop(request.stop().name(), request.stop().grace_ms(), reply);
    case Request::kWorkloads:
      return workloads(reply);
    case Request::kNodes:
      return nodes(reply);
    case Request::kCheck:
      return check(request.check().workload(), request.check().node(), reply);
    case Request::kMigrate:
      return migrate(request.migrate(), reply);
    case Request::kStatus:
      return status(reply);
    case Request::kShow:
      return show(request.show().migration_id(), reply);
    case Request::kEvents:
      std::erase_if(followers_, [](const Reply& follower) { return !follower.open(); });
      if (followers_.size() >= kFollowersMax) return reply.fail(1, "too many followers of events; end some");
      followers_.push_back(reply);
      return;
    case Request::kHistory:
      return history(request.history().count_max(), reply);
    case Request::kCancel:
      return cancel(request.cancel().migration_id(), reply);
    case Request::kRecover:
      return recover(request.recover(), reply);
    case Request::kCleanup:
      return request.cleanup().dry_run() ? show_clean_up(reply) : clean_up(reply);
    case Request::kSteerShow: {
      auto json = steer_.show(request.steer_show().service());
      return json ? send_json(reply, *json) : send_refusal(reply, json.error());
    }
    case Request::kSteerExplain:
      return steer_.explain(request.steer_explain().flow(), [reply](const Answer<std::string>& json) {
        return json ? send_json(reply, *json) : send_refusal(reply, json.error());
      });
    case Request::kSteerRelease:
      return steer_.release(request.steer_release().service(), [reply](const Answer<std::string>& sentence) {
        return sentence ? send_notes(reply, {*sentence}) : send_refusal(reply, sentence.error());
      });
    case Request::BODY_NOT_SET:
      break;
  }
  reply.fail(2, "this agent does not know that request: is it of another version?");
}

// ---- workloads, nodes, check
// -----------------------------------------------------------------------------------------

void Requests::run(const control::v1::Run& request, const Reply& reply) {
  auto spec = spec_of(request);
  if (!spec) return send_refusal(reply, spec.error());
  const StartOptions options{.all_capabilities = request.all_capabilities()};
  service_.after_departure(spec->name, [this, spec = *spec, options, reply] {
    if (!reply.open()) return;  // nobody would know that it runs
    core_.workloads.run(spec, options, [reply](const Answer<const Workload*>& answer) { send_workload(reply, answer); });
  });
}

void Requests::stop(const std::string& name, uint32_t grace_ms, const Reply& reply) {
  Nanoseconds grace = grace_ms != 0 ? Nanoseconds(std::chrono::milliseconds(grace_ms)) : core_.config.limits.stop_grace;
  core_.workloads.stop(name, grace, [reply](const Answer<const Workload*>& answer) { send_workload(reply, answer); });
}

void Requests::workloads(const Reply& reply) const {
  Response response;
  auto& list = *response.mutable_workload_list();
  for (const Workload* workload : core_.workloads.list()) fill(*list.add_workloads(), *workload);
  for (const std::string& problem : core_.workloads.problems()) list.add_problems(problem);
  reply.send(response, true);
}

void Requests::nodes(const Reply& reply) const {
  auto look = [&core = core_] {
    return look_at_peers(core.peers, core.config.peers, move::local_hello(core.config.node.name, move::Purpose::control),
                         core.config.limits.peer_connect_max);
  };
  core_.workers.run(look, [&core = core_, &config = core_.config, reply](const std::map<std::string, Status>& seen) {
    Response response;
    auto& list = *response.mutable_node_list();
    auto& self = *list.add_nodes();
    self.set_name(config.node.name);
    self.set_address(config.node.listen);
    self.set_self(true);
    if (auto usable = core.peers.check_files(); !usable) self.set_problem(usable.error().what);
    for (const auto& [name, status] : seen) {
      auto& node = *list.add_nodes();
      node.set_name(name);
      node.set_address(config.peers.at(name).address);
      if (!status) node.set_problem(status.error().what);
    }
    reply.send(response, true);
  });
}

bool Requests::known_node(const std::string& name, const Reply& reply) const {
  if (name == core_.config.node.name) {
    reply.fail(2, fmt::format("node {} is this node; name another, see mose nodes", name));
    return false;
  }
  if (!core_.config.peers.contains(name)) {
    reply.fail(
        2, fmt::format("no node named \"{}\" is known here; see mose nodes, or add [peers.NAME] to the configuration",
                       name));
    return false;
  }
  return true;
}

void Requests::check(const std::string& workload, const std::string& node, const Reply& reply) {
  if (workload.empty()) {
    auto result = std::make_shared<Response>();
    core_.workers.submit(
        [probe = probe_host_, result, config = &core_.config] { probe(*config, *result->mutable_check_result()); },
        [result, reply] { reply.send(*result, true); });
    return;
  }
  if (core_.workloads.find(workload) == nullptr) {
    return reply.fail(2, fmt::format("no workload named {} is known here; see mose workloads", workload));
  }
  if (!known_node(node, reply)) return;
  service_.when_criu_is_tried([this, workload, node, reply] {
    service_.preflight(workload, node, [reply](const Answer<std::vector<std::string>>& reasons) {
      if (!reasons) return send_refusal(reply, reasons.error());
      Response response;
      auto& result = *response.mutable_check_result();
      for (const std::string& reason : *reasons) result.add_reasons(reason);
      result.set_ok(reasons->empty());
      reply.send(response, true);
    });
  });
}

// ---- migrations
// ------------------------------------------------------------------------------------------------------

void Requests::migrate(const control::v1::Migrate& request, const Reply& reply) {
  if (core_.workloads.find(request.workload()) == nullptr) {
    return reply.fail(2, fmt::format("no workload named \"{}\" is known here; see mose workloads", request.workload()));
  }
  if (!known_node(request.node(), reply)) return;
  auto options = options_of(request);
  if (options && options->max_bandwidth_bps == 0) options->max_bandwidth_bps = core_.config.limits.bandwidth_max;
  if (!options) return send_refusal(reply, options.error());
  if (auto xdp = core_.uplink.usable(); options->steer == SteerLayer::xdp && !xdp) {
    return reply.fail(3, fmt::format("stragglers cannot be redirected at XDP on node {}: {}; leave --steer out, or set "
                                     "node.steer to \"xdp\" in its configuration",
                                     core_.config.node.name, xdp.error().what));
  }
  if (request.dry_run()) return check(request.workload(), request.node(), reply);
  service_.when_criu_is_tried([this, request, options = *options, reply] { begin(request, options, reply); });
}

void Requests::begin(const control::v1::Migrate& request, const MigrationOptions& options, const Reply& reply) {
  if (!reply.open()) {
    return log::warn("a migration is not begun: who asked for it has left",
                     {{"workload", request.workload()}, {"node", request.node()}});
  }
  auto id = service_.start(request.workload(), request.node(), options);
  if (!id) return send_refusal(reply, id.error());
  Response response;
  response.mutable_started()->set_migration_id(id->hex());
  if (!request.detach()) watchers_[*id].push_back(reply);
  reply.send(response, request.detach());
}

void Requests::status(const Reply& reply) const {
  Response response;
  auto& list = *response.mutable_migration_list();
  list.set_plain_text(core_.config.tls.plain_text);
  for (const MigrationProgress& progress : service_.list()) fill(*list.add_migrations(), progress);
  for (const SteerRequests::Closed& closed : steer_.closed()) fill(*list.add_closed(), closed);
  reply.send(response, true);
}

Answer<MigrationId> Requests::find_active(const std::string& prefix) const {
  if (prefix.empty()) return refuse("a migration id is missing; see mose status", 2);
  const MigrationProgress* found = nullptr;
  auto list = service_.list();
  for (const MigrationProgress& progress : list) {
    if (!progress.id.hex().starts_with(prefix) && progress.workload != prefix) continue;
    if (found != nullptr)
      return refuse(fmt::format("more than one migration is {}, or begins with it; give more of its id, see mose status", prefix), 2);
    found = &progress;
  }
  if (found == nullptr)
    return refuse(fmt::format("no migration {} is under way here; see mose status and mose history", prefix), 2);
  return found->id;
}

void Requests::show(const std::string& prefix, const Reply& reply) const {
  if (prefix.empty()) return reply.fail(2, "a migration id is missing; see mose history");
  if (auto id = find_active(prefix)) {
    auto json = service_.show(*id);
    return json ? send_json(reply, *json) : send_refusal(reply, json.error());
  }
  auto json = core_.history.find(prefix);
  if (!json) return reply.fail(2, json.error().what);
  send_json(reply, *json);
}

void Requests::history(size_t count_max, const Reply& reply) const {
  constexpr size_t kEnvelope = 4096;  // of the array in its frame
  History::Page page = core_.history.list(count_max, kControlFrameMax - kEnvelope);
  Response response;
  response.mutable_json()->set_text(std::move(page.json));
  response.mutable_json()->set_left_out(static_cast<uint32_t>(page.left_out));
  reply.send(response, true);
}

void Requests::cancel(const std::string& prefix, const Reply& reply) {
  auto id = find_active(prefix);
  if (!id) return send_refusal(reply, id.error());
  if (auto answer = service_.cancel(*id); !answer) return send_refusal(reply, answer.error());
  send_notes(reply, {fmt::format("migration {} is asked to abort", id->hex())});
}

void Requests::recover(const control::v1::Recover& request, const Reply& reply) {
  auto id = find_active(request.migration_id());
  if (!id) return send_refusal(reply, id.error());
  RecoveryRequest wanted{.id = *id, .act = request.act()};
  if (request.has_shown()) wanted.expected = RecoveryShown{request.shown().action(), request.shown().certain(), request.shown().warning()};
  if (request.decision() == kWishResume) wanted.wish = RecoveryWish::resume;
  else if (request.decision() == kWishGiveUp) wanted.wish = RecoveryWish::give_up;
  else if (!request.decision().empty()) return reply.fail(2, fmt::format("\"{}\" is not a decision", request.decision()));
  service_.recover(wanted, [reply](const Answer<Recovery>& answer) {
    if (!answer) return send_refusal(reply, answer.error());
    Response response;
    fill(*response.mutable_recovery(), *answer);
    reply.send(response, true);
  });
}

// ---- events
// ----------------------------------------------------------------------------------------------------------

void Requests::publish(const AgentEvent& event) {
  log::info(event.text, {{"event", event.kind}, {"subject", event.subject}});
  std::erase_if(followers_, [](const Reply& follower) { return !follower.open(); });
  Response response;
  auto& out = *response.mutable_event();
  out.set_unix_ms(event.unix_ms);
  out.set_kind(event.kind);
  out.set_subject(event.subject);
  out.set_text(event.text);
  for (const Reply& follower : followers_) follower.send(response, false);
}

void Requests::on_progress(const MigrationProgress& progress) {
  Response response;
  fill(*response.mutable_progress(), progress);
  if (auto it = watchers_.find(progress.id); it != watchers_.end()) {
    for (const Reply& watcher : it->second) watcher.send(response, false);
  }
  if (!progress.note.empty() && notes_[progress.id] != progress.note) {
    notes_[progress.id] = progress.note;
    publish({unix_now_ms(), "migration.note", progress.id.hex(),
             fmt::format("migration of {}: {}", progress.workload, progress.note)});
  }
  std::string& phase = phases_[progress.id];
  if (phase == progress.phase) return;
  phase = progress.phase;
  publish({unix_now_ms(), "migration.phase", progress.id.hex(),
           fmt::format("migration of {} from {} to {}: {}", progress.workload, progress.source, progress.destination,
                       phase)});
}

void Requests::on_end(const MigrationEnd& end) {
  phases_.erase(end.id);
  notes_.erase(end.id);
  Response response;
  auto& finished = *response.mutable_finished();
  finished.set_migration_id(end.id.hex());
  finished.set_exit_code(static_cast<uint32_t>(exit_code(end.outcome)));
  finished.set_outcome(std::string(to_string(end.outcome)));
  finished.set_reason(end.reason);
  finished.set_report_json(end.report_json);
  if (auto it = watchers_.find(end.id); it != watchers_.end()) {
    for (const Reply& watcher : it->second) watcher.send(response, true);
    watchers_.erase(it);
  }
  publish({unix_now_ms(), "migration.finished", end.id.hex(),
           fmt::format("migration of {}: {}{}{}", end.workload, to_string(end.outcome), end.reason.empty() ? "" : ": ",
                       end.reason)});
}

}  // namespace mose::agent
