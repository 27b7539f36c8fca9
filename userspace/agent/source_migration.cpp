// SPDX-License-Identifier: MIT
#include "agent/source_migration.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "agent/durable_file.h"
#include "agent/host_calibration.h"
#include "agent/migration_paths.h"
#include "agent/peer_query.h"
#include "base/log.h"
#include "base/units.h"
#include "kernel/socket.h"
#include "plan/rounds.h"
#include "plan/strategy.h"
#include "sense/tracker.h"

namespace mose::agent {
namespace {

using plan::SourceActionKind;

constexpr Nanoseconds kRetryFirst = std::chrono::milliseconds(100);
constexpr Nanoseconds kRetryMax = std::chrono::seconds(2);
// While packets are held for a destination that has the commit, every moment counts: it has died and comes back.
constexpr Nanoseconds kRetryHeld = std::chrono::milliseconds(100);
// An fsync of a disk that nobody else waits for takes that long at most; until then the freeze is put off, so long at most. A disk that
// does not answer at all ends the move by plan::kDumpDeadline, while the workload runs.
constexpr Nanoseconds kDiskQuick = std::chrono::milliseconds(10);
constexpr Nanoseconds kDiskWaitMax = std::chrono::seconds(1);
// While the workload stands still a destination that has vanished is given up after that; 500 ms is what a client may notice.
constexpr Nanoseconds kFrozenSilenceMax = std::chrono::milliseconds(250);
// Stragglers are redirected that long after the source tree has gone.
constexpr Nanoseconds kLinger = std::chrono::milliseconds(500);

// "192.0.2.1:7946" -> ":7946".
std::string port_of(const std::string& endpoint) { return endpoint.substr(endpoint.rfind(':')); }

// What record() has noted of the commit.
std::optional<handover::Tunnel> tunnel_of(const Notes& notes) {
  auto text = [&](const char* name) {
    auto it = notes.find(name);
    return it == notes.end() ? std::string() : it->second;
  };
  auto local = parse_service_address(text("tunnel_local")), remote = parse_service_address(text("tunnel_remote"));
  if (!local || !remote) return std::nullopt;
  return handover::Tunnel{*local, *remote,
                          static_cast<uint16_t>(std::strtoul(text("tunnel_port").c_str(), nullptr, 10))};
}

constexpr const char* kNotedSteer = "steer";
constexpr const char* kNotedBandwidth = "max_bandwidth_bps";
constexpr const char* kNotedRequest = "strategy_requested";
constexpr const char* kNotedRuns = "runs_there";  // COMMITTED was heard
constexpr const char* kNotedStrategy = "strategy";  // with the commit: what came of it

// The final scan runs beside CRIU's dump and restore, which need a core of their own.
sense::WriteScanOptions scan_options() {
  sense::WriteScanOptions options;
  sense::TrackingChoice choice = sense::choose_tracking(known_calibration());
  options.late = choice.late;
  options.dear = choice.dear;
  options.why = std::move(choice.reason);
  options.hash.final_threads = std::max(1u, std::thread::hardware_concurrency() / 2);
  return options;
}

move::StreamId stream_of(const JournalMeta& meta) { return {meta.id, meta.epoch}; }

std::string random_token() {
  MigrationId random = MigrationId::random();
  return {random.bytes.begin(), random.bytes.end()};
}

}  // namespace

SourceMigration::SourceMigration(MigrationContext& context, JournalMeta meta, WorkloadSpec spec,
                                 std::shared_ptr<const ProcessHandle> init, MigrationOptions options, Handlers handlers)
    : context_(context),
      post_(context.core.loop),
      meta_(std::move(meta)),
      spec_(std::move(spec)),
      options_(options),
      handlers_(std::move(handlers)),
      timeline_(context.core.config.node.name),
      token_(random_token()),
      init_(std::move(init)),
      host_(std::make_unique<SourceHost>(context.core.config, context.core.uplink, context.criu, spec_, init_, meta_.id,
                                         meta_.peer, timeline_)),
      driver_(
          context.core.loop, [this](const plan::SourceAction& action) { execute(action); }, [this] { changed(); }),
      criu_lane_(context.core.loop, "criu"),
      memory_lane_(context.core.loop, "memory"),
      journal_lane_(context.core.loop, "journal"),
      peer_lane_(context.core.loop, "peer") {
  memory_ = std::make_unique<SourceMemory>(workload_paths(context.core.config, spec_.name).cgroup,
                                           sense::make_source(options_.tracker, scan_options()), stream_of(meta_),
                                           options_.max_bandwidth_bps, timeline_);
}

SourceMigration::~SourceMigration() {
  const log::ForMigration named(meta_.id.hex());
  context_.core.loop.cancel(retry_timer_);
  context_.core.loop.cancel(standby_timer_);
  unwatch_throttle();
  memory_->cancel();
  host_->break_dump();
}

void SourceMigration::begin() {
  const log::ForMigration named(meta_.id.hex());
  driver_.start(plan::start_source(options_, now()));
}

MigrationOptions SourceMigration::noted_options(const Notes& notes) {
  MigrationOptions options;
  if (auto it = notes.find(kNotedSteer); it != notes.end()) options.steer = parse_steer_layer(it->second).value_or(options.steer);
  if (auto it = notes.find(kNotedRequest); it != notes.end()) options.strategy = parse_strategy(it->second).value_or(options.strategy);
  if (auto it = notes.find(kNotedBandwidth); it != notes.end()) options.max_bandwidth_bps = std::strtoull(it->second.c_str(), nullptr, 10);
  return options;
}

void SourceMigration::recover(Journal journal) {
  const log::ForMigration named(meta_.id.hex());
  recovered_ = true;
  auto records = journal.contents().records;
  const Notes& notes = journal.contents().notes;
  if (auto it = notes.find(kNotedStrategy); it != notes.end()) noted_strategy_ = it->second;
  if (auto it = notes.find("token"); it != notes.end()) {
    if (auto id = MigrationId::parse(it->second)) token_.assign(id->bytes.begin(), id->bytes.end());
  }
  if (auto it = notes.find("peer_mac"); it != notes.end()) {
    if (auto mac = parse_mac(it->second)) path_.mac = *mac;
  }
  path_.tunnel = tunnel_of(notes);
  const bool has_run_there = notes.contains(kNotedRuns);
  journal_ = std::move(journal);
  if (auto adopted = host_->tree_alive() ? host_->adopt() : Status{}; !adopted) {
    log::warn("the network of a recovered workload cannot be opened yet", {{"workload", spec_.name}, {"reason", adopted.error().what}});
  }
  const bool committed = plan::committed(records);
  if (committed && !host_->tree_alive()) {
    log::error("the stopped tree has ended after the commit: its destination goes on, pages that it does not have are lost",
               {{"workload", spec_.name}, {"destination", meta_.peer}});
  } else if (committed) {
    if (auto served = memory_->serve_frozen(); !served) {
      log::error("the frozen tree cannot be read", {{"workload", spec_.name}, {"reason", served.error().what}});
    }
  }
  driver_.start(plan::recover_source(records, has_run_there, now()));
}

void SourceMigration::cancel() {
  const log::ForMigration named(meta_.id.hex());
  driver_.dispatch(plan::CancelRequested{});
}

bool SourceMigration::decide(const plan::DestinationGone& gone) {
  if (!may_decide(gone)) return false;
  const log::ForMigration named(meta_.id.hex());
  log::warn("the operator decides in the place of a destination that is gone",
            {{"workload", spec_.name}, {"destination", meta_.peer},
             {"decision", gone.choice == plan::GoneChoice::resume ? "resume here" : "give up"}});
  trouble_.reset();
  driver_.dispatch(gone);
  return true;
}

bool SourceMigration::accepts(const std::string& token) const { return move::same_token(token, token_); }

// Frozen, it goes only if somebody kills it; the machine was restarted, for one.
bool SourceMigration::tree_is_lost() const {
  const plan::SourcePhase phase = driver_.state().phase;
  return (phase == plan::SourcePhase::committed || phase == plan::SourcePhase::serving) && !host_->tree_alive();
}

std::string SourceMigration::lost_tree() const {
  return fmt::format("the stopped {0} has ended on node {1}, and with it the pages that node {2} does not have", spec_.name,
                     context_.core.config.node.name, meta_.peer);
}

void SourceMigration::attach(const move::Hello& hello, move::StreamSocket socket) {
  const log::ForMigration named(meta_.id.hex());
  if (tree_is_lost()) return memory_->turn_away(std::move(socket), lost_tree());
  if (hello.purpose == move::Purpose::bulk) {
    memory_->attach_bulk(std::move(socket), hello.features);
  } else {
    memory_->attach_urgent(std::move(socket));
  }
}

void SourceMigration::execute(const plan::SourceAction& action) {
  switch (action.kind) {
    case SourceActionKind::preflight:
      return preflight();
    case SourceActionKind::record:
      return record(action.record);
    case SourceActionKind::connect:
      return connect();
    case SourceActionKind::send:
      return send(action);
    case SourceActionKind::precopy_round:
      return precopy_round(action);
    case SourceActionKind::make_standby:
      return make_standby();
    case SourceActionKind::arm_dump:
      return arm_dump();
    case SourceActionKind::quiesce:
      return on_host(action.kind, [this] { return host_->quiesce(); });
    case SourceActionKind::freeze:
      return on_host(action.kind, [this]() -> Status {
        MOSE_TRY(host_->freeze());
        return memory_->tree_stopped();
      });
    case SourceActionKind::dump:
      return dump();
    case SourceActionKind::final_scan:
      return final_scan();
    case SourceActionKind::finish_dump:
      return finish_dump();
    case SourceActionKind::resume_source:
      return resume(action.reason);
    case SourceActionKind::redirect:
      return redirect();
    case SourceActionKind::kill_source:
      return on_host(action.kind, [this] { return host_->kill_tree(); });
    case SourceActionKind::wait_retry:
      return wait_retry(action.round);
    case SourceActionKind::close:
      return close();
  }
}

void SourceMigration::done(SourceActionKind kind, const Status& status, plan::RoundStats stats) {
  std::string error;
  if (!status) {
    error = status.error().what.empty() ? "failed" : status.error().what;
    // What has failed for that, or together with it.
    if (auto end = plan::before_commit(driver_.state()) ? context_.core.workloads.ended(spec_.name) : std::nullopt)
      error = fmt::format("workload {} has ended: {} ({})", spec_.name, *end, error);
    log::warn("an action failed", {{"workload", spec_.name}, {"action", plan::to_string(kind)}, {"reason", error}});
  }
  note_trouble(kind, error);
  driver_.dispatch(plan::SourceActionDone{kind, error, stats});
}

// What keeps a migration from its end after the commit is tried again for as long as it takes: an operator must see it.
void SourceMigration::note_trouble(std::optional<SourceActionKind> kind, const std::string& reason) {
  if (plan::before_commit(driver_.state())) return;
  if (!reason.empty()) trouble_ = {kind, reason};
  else if (trouble_ && trouble_->kind == kind) trouble_.reset();
}

void SourceMigration::on_host(SourceActionKind kind, std::function<Status()> job) {
  criu_lane_.run(std::move(job), [this, kind](const Status& status) { done(kind, status); });
}

void SourceMigration::arm_dump() {
  // Once more where it was waited for beside the closing round: that may have taken minutes.
  await_disk([this] {
    // It has answered too late: resume_source has been, and nothing of a dump comes after that.
    if (driver_.state().phase != plan::SourcePhase::arming) return done(SourceActionKind::arm_dump, fail("aborted while the disk was waited for"));
    on_host(SourceActionKind::arm_dump, [this] { return host_->arm_dump(); });
  });
}

// The commit waits for the disk while the workload stands still. One that others write to takes some hundred milliseconds
// when a burst of theirs is on its way, and little after it: that is waited for while the workload still runs.
void SourceMigration::await_disk(std::function<void()> then) {
  journal_lane_.submit(
      [this] {
        if (!journal_) return;
        Timeline::Span span(timeline_, "disk");
        const Timestamp deadline = now() + kDiskWaitMax;
        for (;;) {
          auto took = journal_->time_sync();
          if (!took || *took <= kDiskQuick || now() >= deadline) return;  // an error is the next record's
        }
      },
      std::move(then));
}

void SourceMigration::preflight() {
  if (!context_.criu) return done(SourceActionKind::preflight, fail(context_.criu_problem));
  criu_lane_.run([this] { return host_->inspect(); },
                 [this](Result<PreparePayload> payload) {
                   if (!payload) return done(SourceActionKind::preflight, std::unexpected(payload.error()));
                   prepare_ = std::move(*payload);
                   prepare_->token = token_;
                   prepare_->memory_first = plan::memory_first(driver_.state().strategy);
                   path_ = prepare_->path;
                   done(SourceActionKind::preflight, {});
                 });
}

void SourceMigration::record(plan::Record record) {
  // Notes that a restarted agent needs to go on.
  Notes notes;
  if (record == plan::Record::begun) {
    MigrationId token;
    std::copy(token_.begin(), token_.end(), token.bytes.begin());
    notes = {{"token", token.hex()},
             {"pid", std::to_string(init_->pid())},
             {kNotedSteer, std::string(to_string(options_.steer))},
             {kNotedRequest, std::string(to_string(options_.strategy))},
             {kNotedBandwidth, std::to_string(options_.max_bandwidth_bps)}};
  } else if (record == plan::Record::commit) {
    notes = {{"peer_mac", format_mac(path_.mac)}};
    // A commit that is recorded again after a restart has it already.
    if (!recovered_) notes[kNotedStrategy] = to_string(driver_.state().strategy);
    if (path_.tunnel) {
      notes["tunnel_local"] = format_with_prefix(path_.tunnel->local);
      notes["tunnel_remote"] = format_with_prefix(path_.tunnel->remote);
      notes["tunnel_port"] = std::to_string(path_.tunnel->port);
    }
  }
  const bool commit = record == plan::Record::commit;
  record_watch_.begin(record, [this] { context_.progress(progress()); });
  journal_lane_.run(
      [this, record, notes, commit]() -> Status {
        if (commit) {
          // The last moment to find out that a page would be lost.
          MOSE_TRY(memory_->check_areas(host_->lazy_areas()));
          if (!recovered_ && !host_->tree_alive()) return fail("the workload has ended while it stood still");
          timeline_.begin("commit");
        }
        return Journal::record(journal_, context_.core.journal_dir, meta_, record, notes, must_survive(meta_.role, record));
      },
      [this](const Status& status) {
        record_watch_.end();
        done(SourceActionKind::record, status);
      });
}

// A commit that is being written, or overruled, stops the workload until it is known.
std::string SourceMigration::explain_slow_record() const {
  const bool stands = driver_.state().phase == plan::SourcePhase::committing || driver_.state().commit_doubtful;
  const std::string text = record_watch_.sentence(stands ? spec_.name : "");
  return text.empty() || !stands ? text : text + ": nobody can say before what is on it";
}

void SourceMigration::connect() {
  move::Hello hello = context_.hello;
  hello.purpose = move::Purpose::control;
  // What has begun must end, whatever roles are taken away meanwhile.
  const AskRoles ask = prepare_ && !std::exchange(began_, true) ? AskRoles::yes : AskRoles::no;
  peer_lane_.run(
      [this, hello, ask] {
        return connect_to_peer(context_.core.peers, meta_, hello, context_.core.config.limits.peer_connect_max, ask);
      },
      [this](Result<PeerLink> connected) {
        if (!connected) return done(SourceActionKind::connect, std::unexpected(connected.error()));
        // Not node.listen itself: that may be a wildcard.
        if (prepare_) prepare_->page_server_address = host_of(connected->own_endpoint) + port_of(context_.core.config.node.listen);
        adopt_connection(std::move(connected->socket));
        done(SourceActionKind::connect, {});
      });
}

void SourceMigration::adopt_connection(move::StreamSocket socket) {
  connection_ = std::make_unique<PeerConnection>(context_.core.loop, std::move(socket), stream_of(meta_), meta_.peer);
  tls_used_ = connection_->tls_used();
  PeerConnection::Handlers handlers;
  handlers.on_frame = [this](wire::FrameType type, const std::string& payload) { on_frame(type, payload); };
  handlers.on_closed = [this](const std::string& reason) {
    driver_.dispatch(plan::ConnectionLost{fmt::format("the connection to node {} was lost: {}", meta_.peer, reason)});
    standby_given_up();
  };
  if (auto opened = connection_->open(std::move(handlers)); !opened) {
    log::error("a connection cannot be watched", {{"reason", opened.error().what}});
  }
}

void SourceMigration::on_frame(wire::FrameType type, const std::string& payload) {
  auto received = [&](plan::Message message, std::string reason = {}) {
    driver_.dispatch(plan::MessageReceived{message, std::move(reason)});
  };
  switch (type) {
    case wire::FrameType::prepared: {
      auto prepared = decode_prepared(payload);
      if (!prepared) return received(plan::Message::refused, prepared.error().what);
      prepared_ = *prepared;
      if (path_.tunnel && !prepared_.takes_tunnel) {
        return received(
            plan::Message::refused,
            fmt::format("node {} is behind a router and knows no VXLAN redirection: update mosed there", meta_.peer));
      }
      if (prepare_->memory_first && !prepared_.memory_first) {
        return received(plan::Message::refused, fmt::format("node {} cannot wait for all of the memory before it "
                                                            "resumes a workload, as {} wants it: update mosed there",
                                                            meta_.peer, to_string(driver_.state().strategy)));
      }
      if (!path_.tunnel) path_.mac = prepared_.uplink_mac;
      return received(plan::Message::prepared);
    }
    case wire::FrameType::refused:
      return received(plan::Message::refused, fmt::format("node {} refuses: {}", meta_.peer, decode_reason(payload)));
    case wire::FrameType::standing: {
      auto problem = decode_standing(payload);
      return standby_ended(problem ? *problem : problem.error().what);
    }
    case wire::FrameType::ready:
      timeline_.end("restore_wait");
      return received(plan::Message::ready);
    case wire::FrameType::failed: {
      const std::string reason = fmt::format("node {}: {}", meta_.peer, decode_reason(payload));
      note_trouble({}, reason);
      return received(plan::Message::failed, reason);
    }
    case wire::FrameType::committed: {
      const bool noted = has_run_there();
      if (!thawed_seen_at_) {
        thawed_seen_at_ = now();
        if (auto thawed = decode_committed(payload); thawed && *thawed != 0) thawed_there_us_ = *thawed;
      }
      timeline_.end("commit");
      note_trouble({}, "");
      received(plan::Message::committed);
      if (!noted && has_run_there()) note_that_it_runs();
      return;
    }
    case wire::FrameType::complete: {
      auto report = decode_complete(payload);
      std::string lost;
      if (report) {
        destination_report_ = std::move(*report);
        auto theirs = report_from_json(destination_report_);
        if (theirs && theirs->outcome == to_string(Outcome::lost)) lost = fmt::format("node {}: {}", meta_.peer, theirs->reason);
      }
      return received(plan::Message::complete, lost);
    }
    case wire::FrameType::aborted:
      note_trouble({}, has_run_there() ? fmt::format("node {} has thrown {} away, which had run there; `mose recover {}` says what can be done", meta_.peer,
                                                     spec_.name, meta_.id.hex())
                                       : "");
      return received(plan::Message::aborted, decode_reason(payload));
    default:
      log::warn("an unexpected frame of the destination is ignored", {{"type", move::to_string(type)}});
  }
}

// What clients have been told since then is not here: no agent of this node may let the stopped tree run again.
void SourceMigration::note_that_it_runs() {
  journal_lane_.submit([this] {
    if (!journal_) return;
    if (auto noted = journal_->note({{kNotedRuns, "yes"}}); !noted) {
      log::warn("that the workload runs at its destination could not be noted", {{"reason", noted.error().what}});
    }
  });
}

void SourceMigration::send(const plan::SourceAction& action) {
  if (!connection_) return done(SourceActionKind::send, fail("not connected to node " + meta_.peer));
  switch (action.message) {
    case plan::Message::prepare:
      connection_->send(wire::FrameType::prepare, encode(*prepare_));
      break;
    case plan::Message::images:
      timeline_.begin("restore_wait");
      connection_->send(wire::FrameType::images, *images_);
      images_.reset();
      break;
    case plan::Message::commit:
      connection_->send(wire::FrameType::commit);
      memory_->committed();
      break;
    case plan::Message::abort:
      connection_->send(wire::FrameType::abort, encode_reason(action.reason));
      break;
    case plan::Message::released:
      connection_->send(wire::FrameType::released);
      break;
    default:
      break;
  }
  // After this function: the planner is in the middle of handing out actions.
  post_([this] { done(SourceActionKind::send, {}); });
}

void SourceMigration::dump() {
  criu_lane_.run(
      [this, early = std::move(standby_images_)]() -> Result<std::string> {
        MOSE_ASSIGN(ImagesPayload images, host_->dump());
        return encode(std::move(images), early.get());
      },
      [this](Result<std::string> images) {
        if (!images) return done(SourceActionKind::dump, std::unexpected(images.error()));
        if (auto fits = check_images(*images); !fits) return done(SourceActionKind::dump, fits);
        images_ = std::move(*images);
        done(SourceActionKind::dump, {});
      });
}

// While the workload can still go on: the destination would only close the connection.
Status SourceMigration::check_images(const std::string& encoded) const {
  uint64_t own = context_.core.config.limits.images_bytes_max;
  bool here = own <= prepared_.images_bytes_max;
  uint64_t bytes_max = here ? own : prepared_.images_bytes_max;
  if (encoded.size() <= bytes_max) return {};
  return fail(fmt::format("the images of {} and the files that go with them have {}, at most {} are taken by node {}: raise limits.images_bytes_max there",
                          spec_.name, format_bytes(encoded.size()), format_bytes(bytes_max), here ? context_.core.config.node.name : meta_.peer));
}

void SourceMigration::final_scan() {
  memory_lane_.run([this] { return memory_->final_scan(); },
                   [this](Result<plan::FinalStats> stats) {
                     if (!stats) return done(SourceActionKind::final_scan, std::unexpected(stats.error()));
                     driver_.dispatch(plan::SourceActionDone{.kind = SourceActionKind::final_scan, .final = *stats});
                   });
  // Behind it on the same lane: the pages that the map calls remote.
  const auto most = plan::pages_left_max(driver_.state());
  memory_lane_.submit([this, most, standby = standby_stands()] {
    memory_->push(most, standby, [this](uint64_t pages) { post_([this, pages] { driver_.dispatch(plan::PagesLeft{pages}); }); });
  });
}

void SourceMigration::finish_dump() {
  on_host(SourceActionKind::finish_dump, [this] { return host_->finish_dump(); });
}

void SourceMigration::redirect() {
  criu_lane_.run([this, path = path_, layer = options_.steer] { return host_->redirect(path, layer); },
                 [this](const Status& status) {
                   if (status) {
                     // Until it hears this the destination keeps silent on the segment: what clients send comes by here, in order.
                     if (connection_) connection_->send(wire::FrameType::drained);
                     criu_lane_.submit([this] { host_->settle_redirection(); });
                   }
                   done(SourceActionKind::redirect, status);
                 });
}

void SourceMigration::resume(const std::string& reason) {
  log::warn("the source resumes", {{"workload", spec_.name}, {"reason", reason}});
  memory_->cancel();
  host_->break_dump();
  standby_given_up();
  criu_lane_.run([this] { return host_->resume(); },
                 [this](const Status& status) {
                   // The workload runs again: what tracked its memory goes away beside it.
                   if (status) memory_lane_.submit([this] { memory_->end_tracking(); });
                   done(SourceActionKind::resume_source, status);
                 });
}

void SourceMigration::wait_retry(unsigned failures) {
  bool holds = driver_.state().phase == plan::SourcePhase::committed;
  Nanoseconds pause = std::min(holds ? kRetryHeld : kRetryMax, kRetryFirst * (1u << std::min(failures, 5u)));
  retry_waits_ = true;
  retry_timer_ = context_.core.loop.after(pause, [this] { end_retry_pause(); });
}

void SourceMigration::end_retry_pause() {
  if (!std::exchange(retry_waits_, false)) return;
  const log::ForMigration named(meta_.id.hex());
  context_.core.loop.cancel(retry_timer_);
  done(SourceActionKind::wait_retry, {});
}

void SourceMigration::changed() {
  const plan::SourceState& state = driver_.state();
  context_.progress(progress());
  bool frozen = state.phase >= plan::SourcePhase::freezing && state.phase <= plan::SourcePhase::restoring;
  if (connection_) connection_->expect_life(frozen ? kFrozenSilenceMax : Nanoseconds(0));
  if (ended_) return alarm_late();
  if (!plan::settled(state)) return;
  ended_ = true;
  alarmed_ = state.reason.contains(plan::kMayRunTwice);
  timeline_.end("commit");
  MigrationEnd end{meta_.id, spec_.name, Role::source, state.outcome, state.reason, {}};
  end.report_json = report_json();
  auto& workloads = context_.core.workloads;
  // An undecided one, and one whose tree could not be killed, stays "moving": nobody may start, stop or move it before
  // `mose recover` has done the rest.
  const bool left = state.outcome == Outcome::complete || state.outcome == Outcome::target_missed || state.outcome == Outcome::lost ||
                    state.outcome == Outcome::failed_after_commit;
  const bool undone = state.outcome == Outcome::unknown ||
                      (state.outcome == Outcome::failed_after_commit && !plan::nothing_left(state));
  Status moved;
  if (undone) moved = {};
  else if (left) moved = workloads.leave(spec_.name, meta_.peer);
  else moved = workloads.stay(spec_.name);
  if (!moved) log::error("the workload's state could not be written", {{"workload", spec_.name}, {"reason", moved.error().what}});
  post_([this, end = std::move(end)] { handlers_.on_end(end); });
}

// The source runs, and has said so, before it has reached a destination that may run as well.
void SourceMigration::alarm_late() {
  const plan::SourceState& state = driver_.state();
  if (alarmed_ || !state.reason.contains(plan::kMayRunTwice)) return;
  alarmed_ = true;
  log::error("the workload may run twice", {{"workload", spec_.name}, {"reason", state.reason}});
  MigrationEnd end{meta_.id, spec_.name, Role::source, state.outcome, state.reason, report_json()};
  post_([this, end = std::move(end)] { handlers_.on_alarm(end); });
}

void SourceMigration::close() {
  // Packets that could not be redirected are lost, but the workload has left all the same.
  const Outcome outcome = driver_.state().outcome;
  bool moved_away = outcome == Outcome::complete || outcome == Outcome::target_missed || outcome == Outcome::lost ||
                    (outcome == Outcome::failed_after_commit && plan::nothing_left(driver_.state()));
  auto finish = [this] { end_close(); };
  // Of an undecided one `mose recover` needs it: who keeps the held packets stands there.
  const bool undecided = !moved_away && (outcome == Outcome::unknown || outcome == Outcome::failed_after_commit);
  if (!moved_away) {
    auto clean_up = [this, undecided] {
      host_->give_up_dump();
      if (!undecided) (void)remove_wiped(migration_paths(context_.core.config, meta_.id).dir);
    };
    auto on_criu_lane = [this, clean_up, finish] { criu_lane_.submit(clean_up, finish); };
    // A workload that was never stopped is tracked until here; one that stays frozen would be hurt by nothing but time.
    if (plan::nothing_left(driver_.state())) return memory_lane_.submit([this] { memory_->end_tracking(); }, on_criu_lane);
    return on_criu_lane();
  }
  retry_timer_ = context_.core.loop.after(kLinger, [this, finish] {
    criu_lane_.run([this] { return host_->release(); },
                   [finish](const Status& status) {
                     if (!status) log::warn("the source's network could not be removed", {{"reason", status.error().what}});
                     finish();
                   });
  });
}

void SourceMigration::end_close() {
  if (plan::nothing_left(driver_.state())) {
    // As long as the registry does not say where the workload is, the journal does.
    if (auto saved = context_.core.workloads.saved(spec_.name); !saved) {
      if (!trouble_) log::error("a migration is not closed yet", {{"reason", saved.error().what}});
      trouble_ = {SourceActionKind::close, saved.error().what};
      context_.progress(progress());
      retry_timer_ = context_.core.loop.after(kRetryMax, [this] { end_close(); });
      return;
    }
    (void)remove_journal(context_.core.journal_dir, meta_.id, Role::source);
  }
  done(SourceActionKind::close, {});
  handlers_.on_gone();
}

}  // namespace mose::agent
