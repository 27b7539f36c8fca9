// SPDX-License-Identifier: MIT
#include "agent/destination_migration.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/migration_paths.h"
#include "agent/peer_query.h"
#include "base/log.h"
#include "handover/announce.h"

namespace mose::agent {

using plan::DestinationActionKind;

namespace {

constexpr const char* kNotedReason = "reason";  // with lost
constexpr Nanoseconds kFenceBound = std::chrono::seconds(5);
constexpr Nanoseconds kArrivingPause = std::chrono::seconds(5);  // the plan is told of arriving pages this often at most
// From the thaw until the source has redirected what it held: a round trip and a few ms. A source that has died never says so.
constexpr Nanoseconds kDrainedBound = std::chrono::milliseconds(200);
// After a death of this agent the source has to find it again first (it tries every 100 ms, and at once when it is asked).
constexpr Nanoseconds kDrainedBoundAgain = std::chrono::seconds(1);

}  // namespace

DestinationMigration::DestinationMigration(MigrationContext& context, JournalMeta meta, PreparePayload payload, Handlers handlers)
    : context_(context),
      post_(context.core.loop),
      meta_(std::move(meta)),
      payload_(std::move(payload)),
      handlers_(std::move(handlers)),
      timeline_(context.core.config.node.name),
      host_(std::make_unique<DestinationHost>(context.core.config, context.core.uplink, context.criu, payload_, meta_.id, meta_.peer, timeline_)),
      driver_(context.core.loop, [this](const plan::DestinationAction& action) { execute(action); }, [this] { changed(); }),
      criu_lane_(context.core.loop, "criu"),
      journal_lane_(context.core.loop, "journal"),
      peer_lane_(context.core.loop, "peer") {}

DestinationMigration::~DestinationMigration() {
  const log::ForMigration named(meta_.id.hex());
  for (auto timer : timers_) context_.core.loop.cancel(timer);
  unwatch_tree();
  host_->kill_restore();
  host_->hurry();
}

void DestinationMigration::begin(std::unique_ptr<PeerConnection> connection) {
  const log::ForMigration named(meta_.id.hex());
  adopt_connection(std::move(connection));
  driver_.start(plan::start_destination(now()));
}

void DestinationMigration::recover(Journal journal) {
  const log::ForMigration named(meta_.id.hex());
  auto records = journal.contents().records;
  journal_ = std::move(journal);
  recovered_ = true;
  const Workload* workload = context_.core.workloads.find(payload_.spec.name);
  arrived_ = workload != nullptr && workload->state == WorkloadState::arriving && workload->migration == meta_.id.hex();
  const bool committed = plan::committed(records), ready = plan::contains(records, plan::Record::ready);
  const Notes& notes = journal_->contents().notes;
  if (records.back() == plan::Record::ready) expect_tree(notes);
  if (ready) {
    if (auto adopted = host_->adopt(); !adopted) {
      log::error("a restored workload cannot be taken over yet", {{"workload", payload_.spec.name}, {"reason", adopted.error().what}});
    }
    watch_pager();
    if (committed) pager_->thawed();
    // COMPLETE may have been recorded while frames still waited in a queue that died with the agent.
    if (committed && records.back() == plan::Record::complete) {
      criu_lane_.submit([this] {
        if (auto open = host_->activate(); !open) {
          log::error("the network of an arrived workload is not open", {{"workload", payload_.spec.name}, {"reason", open.error().what}});
        }
        host_->release_egress();
      });
    }
  }
  if (auto it = notes.find(kNotedReason); it != notes.end()) trouble_ = it->second;
  driver_.start(plan::recover_destination(records, now()));
  // The machine was started again, for one: with the tree went its userfaultfds.
  if (ready && host_->tree_gone()) return tree_ended("workload " + payload_.spec.name + " had ended when the agent was started");
  if (ready && driver_.state().phase <= plan::DestinationPhase::running) watch_tree();
}

void DestinationMigration::adopt_connection(std::unique_ptr<PeerConnection> connection) {
  const log::ForMigration named(meta_.id.hex());
  connection_ = std::move(connection);
  tls_used_ = connection_->tls_used();
  PeerConnection::Handlers handlers;
  handlers.on_frame = [this](wire::FrameType type, const std::string& payload) { on_frame(type, payload); };
  handlers.on_closed = [this](const std::string& reason) {
    driver_.dispatch(plan::ConnectionLost{fmt::format("the connection to node {} was lost: {}", meta_.peer, reason)});
  };
  connection_->set_handlers(std::move(handlers));
}

void DestinationMigration::on_frame(wire::FrameType type, const std::string& payload) {
  const log::ForMigration named(meta_.id.hex());
  auto received = [&](plan::Message message, std::string reason = {}) {
    driver_.dispatch(plan::MessageReceived{message, std::move(reason)});
  };
  switch (type) {
    case wire::FrameType::standby:
      return make_standby(payload);
    case wire::FrameType::images: {
      auto images = decode_images(payload, standby_images_ ? &standby_images_->images : nullptr, context_.core.config.limits.images_bytes_max);
      standby_images_.reset();
      if (!images) {
        log::error("IMAGES cannot be read", {{"reason", images.error().what}});
        connection_->send(wire::FrameType::failed, encode_reason(images.error().what));
        return received(plan::Message::abort, images.error().what);
      }
      images_ = std::make_shared<const ImagesPayload>(std::move(*images));
      return received(plan::Message::images);
    }
    case wire::FrameType::commit:
      look_at_tree();
      return received(plan::Message::commit);
    case wire::FrameType::abort:
      return received(plan::Message::abort, decode_reason(payload));
    case wire::FrameType::drained:
      if (thawed_at_) release_egress();
      return;
    case wire::FrameType::released:
      return received(plan::Message::released);
    default:
      log::warn("an unexpected frame of the source is ignored", {{"type", move::to_string(type)}});
  }
}

void DestinationMigration::execute(const plan::DestinationAction& action) {
  switch (action.kind) {
    case DestinationActionKind::record:
      return record(action.record);
    case DestinationActionKind::send:
      return send(action);
    case DestinationActionKind::prepare:
      return prepare();
    case DestinationActionKind::restore:
      return restore();
    case DestinationActionKind::activate:
      return activate();
    case DestinationActionKind::discard:
      return discard();
    case DestinationActionKind::finish:
      return finish();
    case DestinationActionKind::query_verdict:
      return query_verdict();
  }
}

void DestinationMigration::done(DestinationActionKind kind, const Status& status) {
  std::string error;
  if (!status) {
    error = status.error().what.empty() ? "failed" : status.error().what;
    log::warn("an action failed", {{"workload", payload_.spec.name}, {"action", plan::to_string(kind)}, {"reason", error}});
  }
  driver_.dispatch(plan::DestinationActionDone{kind, error});
}

void DestinationMigration::record(plan::Record record) {
  Notes notes;
  if (record == plan::Record::begun) notes = {{"prepare", to_hex(encode(payload_))}};
  if (record == plan::Record::ready) notes = {{kNotedProcesses, std::to_string(host_->processes())}};
  if (record == plan::Record::lost) notes = {{kNotedReason, driver_.state().reason}};
  record_watch_.begin(record, [this] { context_.progress(progress()); });
  journal_lane_.run(
      [this, record, notes] {
        return Journal::record(journal_, context_.core.journal_dir, meta_, record, notes, must_survive(meta_.role, record));
      },
      [this](const Status& status) {
        record_watch_.end();
        done(DestinationActionKind::record, status);
      });
}

void DestinationMigration::send(const plan::DestinationAction& action) {
  if (connection_) {
    switch (action.message) {
      case plan::Message::prepared:
        connection_->send(wire::FrameType::prepared, encode(prepared_));
        break;
      case plan::Message::refused:
        connection_->send(wire::FrameType::refused, encode_reason(action.reason));
        break;
      case plan::Message::ready:
        connection_->send(wire::FrameType::ready);
        break;
      case plan::Message::failed:
        connection_->send(wire::FrameType::failed, encode_reason(action.reason));
        break;
      case plan::Message::committed:
        connection_->send(wire::FrameType::committed, encode_committed(host_->thawed_us()));
        break;
      case plan::Message::complete:
        return send_complete();
      case plan::Message::aborted:
        connection_->send(wire::FrameType::aborted, encode_reason(action.reason));
        break;
      default:
        break;
    }
  }
  post_([this] { done(DestinationActionKind::send, {}); });
}

// Once what the workload has sent is let go: when the first frame left stands in the report.
void DestinationMigration::send_complete() {
  if (thawed_at_ && !egress_released_) {
    complete_waits_ = true;
    return;
  }
  criu_lane_.run([this] { return host_->first_out_us(); },
                 [this](std::optional<int64_t> first) {
                   first_out_us_ = first;
                   if (connection_) connection_->send(wire::FrameType::complete, encode_complete(report_json()));
                   done(DestinationActionKind::send, {});
                 });
}

void DestinationMigration::prepare() {
  if (!context_.criu || !host_->has_criu()) {
    // Ready since this migration was made: then there is no problem any more, and still no CRIU for it.
    std::string problem = context_.criu ? kCriuBeingPrepared : context_.criu_problem;
    return post_([this, problem] { done(DestinationActionKind::prepare, fail(problem)); });
  }
  auto arriving = context_.core.workloads.begin_arrival(payload_.spec, meta_.id);
  if (!arriving) {
    return post_([this, reason = arriving.error().reason] { done(DestinationActionKind::prepare, fail(reason)); });
  }
  arrived_ = true;
  criu_lane_.run([this] { return host_->prepare(); },
                 [this](Result<PreparedPayload> prepared) {
                   if (!prepared) return done(DestinationActionKind::prepare, std::unexpected(prepared.error()));
                   prepared_ = *prepared;
                   prepared_.memory_first = payload_.memory_first;
                   prepared_.images_bytes_max = context_.core.config.limits.images_bytes_max;
                   watch_pager();
                   done(DestinationActionKind::prepare, {});
                 });
}

void DestinationMigration::watch_pager() {
  PagerLink::Handlers handlers;
  // What follows from these may end the link itself: after it has come to its end.
  handlers.on_fenced = [this] {
    fenced_ = true;
    timeline_.end("fence_confirm");
    post_([this] { restored_if_waiting(); });
  };
  handlers.on_standby = [this](const std::string& refusal) { standby_announced(refusal); };
  handlers.on_staged = [this] { standby_staged(); };
  handlers.on_stale = [this](const std::vector<restore::StalePages>& pages) { post_([this, pages] { discard_stale(pages); }); };
  handlers.on_refreshed = [this] {
    memory_fresh_ = true;
    post_([this] { restored_if_waiting(); });
  };
  handlers.on_standby_gone = [this] { standby_let_go(); };
  handlers.on_progress = [this] {
    if (pager_->status().sealed) host_->end_warming();  // the source stands still: images are on their way
    note_arriving();
    note_waits();
    post_([this] { judge_stale_memory(); });
  };
  handlers.on_filled = [this] {
    filled_ = true;
    filled_at_ = now();
    timeline_.end("fill");
    post_([this] { restored_if_waiting(); });
  };
  handlers.on_complete = [this] {
    pager_status_ = pager_->status();
    post_([this] { driver_.dispatch(plan::PagesComplete{}); });
  };
  // Until READY the source has everything and its workload stands still: to go back is a matter of milliseconds, to replace a
  // pager takes a second, in vain while CRIU restores.
  handlers.may_be_replaced = [this] { return driver_.state().phase > plan::DestinationPhase::restoring; };
  handlers.on_died = [this](const std::string& reason) { post_([this, reason] { lose_pager("the pager has died", reason); }); };
  handlers.on_failed = [this](const std::string& reason) {
    // Of a standby that is being cleared away: the next CRIU may be there already.
    if (standby_ == Standby::dropping) return;
    // The pager has frozen the tree, and with it a CRIU that is still at work among it and would say nothing until its bound.
    host_->kill_restore();
    // A standby is nobody's workload yet. What its lane does just now ends by itself.
    if (standby_ == Standby::standing) return post_([this, reason] { if (standby_ == Standby::standing) drop_standby(reason); });
    if (standby_ == Standby::building) return;
    post_([this, reason] {
      // Nobody could bring the pages that are to come: the source would wait for it.
      if (driver_.state().phase <= plan::DestinationPhase::restoring) return lose_pager("the pager has failed: " + reason, reason);
      trouble_ = "the pager has failed (" + reason + "); the workload is kept stopped rather than wrong";
      log::error("the pager has failed; the workload is kept stopped rather than wrong", {{"reason", reason}});
      criu_lane_.submit([this] {
        if (auto stopped = host_->stop(); !stopped)
          log::error("the workload could not be stopped", {{"reason", stopped.error().what}});
      });
    });
  };
  pager_ = std::make_unique<PagerLink>(context_.core.loop, host_->pager_launch(), std::move(handlers));
  pager_->connect();
}

// The plan wants to know that pages come, not of each of them.
void DestinationMigration::note_arriving() {
  uint64_t received = pager_->status().progress.bytes_received;
  if (received == arrived_bytes_ || now() - arriving_told_ < kArrivingPause) return;
  arrived_bytes_ = received;
  arriving_told_ = now();
  post_([this] { driver_.dispatch(plan::PagesArriving{}); });
}

void DestinationMigration::restore() {
  if (standby_ == Standby::building || standby_ == Standby::dropping) {
    restore_waits_ = true;
    return;
  }
  host_->hurry();
  if (standby_ == Standby::standing) return refresh();
  if (!standby_failed_) return post_([this] { done(DestinationActionKind::restore, standby_failed_); });
  criu_lane_.run([this, images = std::move(images_)] { return host_->restore(*images); },
                 [this](const Status& status) { restored(status); });
}

// Before READY: the source still has everything. READY may have been on its way to the journal when it happened.
void DestinationMigration::lose_pager(const std::string& told, const std::string& reason) {
  if (driver_.state().phase > plan::DestinationPhase::restoring) {
    if (pager_) pager_->go_on();
    return;
  }
  log::error("the pager is lost before this side was ready", {{"reason", reason}});
  if (connection_) connection_->send(wire::FrameType::failed, encode_reason(told));
  driver_.dispatch(plan::ConnectionLost{told});
}

void DestinationMigration::restored_if_waiting() {
  if (std::exchange(restored_, false)) restored({});
}

// READY only after the pager has said that it has raised the fence: it must not do so after a thaw.
void DestinationMigration::restored(const Status& status) {
  if (!status) return done(DestinationActionKind::restore, status);
  watch_tree();
  // Discarded while CRIU restored: the pager is gone, and nobody would confirm anything.
  if (!pager_) return done(DestinationActionKind::restore, fail("discarded"));
  const bool fresh = standby_ != Standby::refreshed || (memory_fresh_ && !discarding_);
  if (fenced_ && fresh && payload_.memory_first && !filled_) {
    // The source waits as long as the pages may take, and a pager that has failed brings none.
    restored_ = true;
    timeline_.begin("fill");
    return;
  }
  if (fenced_ && fresh) {
    // Pages that no userfaultfd covers would be lost: the images and the page map do not belong together.
    uint64_t lost = pager_ ? pager_->status().progress.unregistered_pages : 0;
    Status whole = lost == 0 ? Status{} : Status(fail(fmt::format("{} pages of the page map lie outside of what was restored", lost)));
    return done(DestinationActionKind::restore, whole);
  }
  restored_ = true;
  timeline_.begin("fence_confirm");
  if (!fresh) return await_fresh_memory();
  timers_.push_back(context_.core.loop.after(kFenceBound, [this] {
    if (fenced_) return;
    if (std::exchange(restored_, false))
      done(DestinationActionKind::restore, fail("the pager does not confirm the fence"));
  }));
}

void DestinationMigration::activate() {
  if (!thawed_at_) thawed_at_ = now();
  activating_ = true;
  criu_lane_.run(
      [this]() -> plan::DestinationActionDone {
        // An empty group thaws like any other.
        if (std::string missing = host_->missing(); !missing.empty()) return {DestinationActionKind::activate, missing, true, true};
        Status status = host_->activate();
        return {DestinationActionKind::activate, status ? "" : status.error().what, false, host_->thawed_us() == 0};
      },
      [this](const plan::DestinationActionDone& end) { activated(end); });
}

void DestinationMigration::activated(const plan::DestinationActionDone& end) {
  activating_ = false;
  trouble_ = end.tree_gone ? "" : end.error;
  if (!end.error.empty()) {
    log::error("a workload could not be thawed", {{"workload", payload_.spec.name}, {"reason", end.error}});
    if (end.not_thawed) thawed_at_.reset();
  } else {
    if (pager_) pager_->thawed();
    timers_.push_back(context_.core.loop.after(recovered_ ? kDrainedBoundAgain : kDrainedBound, [this] { release_egress(); }));
  }
  driver_.dispatch(end);
}

// The first frame that leaves here moves the switches' port, and clients answer it (TCP's window probes, for one): what they
// send then comes straight to this node and would overtake what was held at the source. TCP takes the older frames for
// duplicates of the past (PAWS), drops them, and the connection stands until its RTO.
void DestinationMigration::release_egress() {
  if (std::exchange(egress_released_, true)) return;
  criu_lane_.submit([this] { host_->release_egress(); });
  schedule_announcements();
  // Now that nobody waits for it: the registry may wait for a disk.
  if (auto registered = register_here(); !registered) {
    log::warn("the arrival could not be registered yet", {{"workload", payload_.spec.name}, {"reason", registered.error().what}});
  }
  if (std::exchange(complete_waits_, false)) send_complete();
  if (std::exchange(finish_waits_, false)) finish();
}

void DestinationMigration::schedule_announcements() {
  for (Nanoseconds offset : handover::kAnnounceOffsets) {
    if (offset.count() == 0) continue;  // done with the release
    timers_.push_back(context_.core.loop.after(offset, [this] { criu_lane_.submit([this] { host_->announce(); }); }));
  }
}

void DestinationMigration::discard() {
  // Refused before anything was made: what has the workload's name here is somebody else's.
  if (!arrived_ && !driver_.state().lost) return post_([this] { done(DestinationActionKind::discard, {}); });
  unwatch_tree();
  host_->kill_restore();
  host_->hurry();
  if (standby_ != Standby::refreshed) standby_ = Standby::gone;  // its lane ends what it does, nothing follows from it
  if (std::exchange(restore_waits_, false)) done(DestinationActionKind::restore, fail("discarded"));
  if (std::exchange(restored_, false)) done(DestinationActionKind::restore, fail("discarded"));
  if (pager_) pager_status_ = pager_->status();
  pager_.reset();
  criu_lane_.run([this] { return host_->discard(); },
                 [this](const Status& status) {
                   if (status && arrived_) {
                     context_.core.workloads.forget_arrival(payload_.spec.name);
                     arrived_ = false;
                   }
                   done(DestinationActionKind::discard, status);
                 });
}

void DestinationMigration::finish() {
  if (thawed_at_ && !egress_released_) {
    finish_waits_ = true;  // for the source's word, or for the end of its time
    return;
  }
  release_egress();
  if (pager_) pager_status_ = pager_->status();
  pager_.reset();
  criu_lane_.run([this] { return host_->settle(); },
                 [this](const Status& status) { done(DestinationActionKind::finish, status ? register_here() : status); });
}

// From the thaw on the workload is this node's.
Status DestinationMigration::register_here() {
  const Workload* workload = context_.core.workloads.find(payload_.spec.name);
  // Before, or it has come and gone since then.
  if (!workload || workload->state == WorkloadState::running || workload->state == WorkloadState::stopping ||
      workload->state == WorkloadState::exited) {
    return context_.core.workloads.saved(payload_.spec.name);
  }
  unwatch_tree();
  // It had everything, and has ended before it was registered, with its machine for one.
  if (host_->tree_gone()) {
    log::warn("a workload has ended as soon as it ran here", {{"workload", payload_.spec.name}});
    context_.core.workloads.forget_arrival(payload_.spec.name);
    return {};
  }
  MOSE_ASSIGN(ProcessHandle init, host_->init());
  return context_.core.workloads.arrived(payload_.spec.name, std::move(init));
}

void DestinationMigration::query_verdict() {
  ask([this](const Status& asked) { done(DestinationActionKind::query_verdict, asked); });
}

void DestinationMigration::ask_now() {
  const log::ForMigration named(meta_.id.hex());
  ask([](const Status&) {});
}

// A verdict of the source is a message like any other; `then` comes after it.
void DestinationMigration::ask(std::function<void(const Status&)> then) {
  peer_lane_.run([this] { return ask_record(context_.core.peers, meta_, context_.hello, context_.core.config.limits.peer_connect_max); },
                 [this, then = std::move(then)](Result<MigrationRecord> answer) {
                   if (!answer) return then(std::unexpected(answer.error()));
                   if (answer->verdict == plan::Verdict::commit) {
                     look_at_tree();
                     driver_.dispatch(plan::MessageReceived{plan::Message::commit, {}});
                   }
                   if (answer->verdict == plan::Verdict::abort) {
                     driver_.dispatch(plan::MessageReceived{plan::Message::abort, "the source has aborted"});
                   }
                   then({});
                 });
}

void DestinationMigration::changed() {
  const plan::DestinationState& state = driver_.state();
  context_.progress(progress());
  if (ended_ || state.phase != plan::DestinationPhase::done) return;
  ended_ = true;
  MigrationEnd end{meta_.id, payload_.spec.name, Role::destination, state.outcome, state.reason, report_json()};
  post_([this, end = std::move(end)] {
    handlers_.on_end(end);
    // Answers already queued leave first; repeated announcements are part of the end as well.
    Nanoseconds linger = end.outcome == Outcome::complete ? handover::kAnnounceOffsets.back() + std::chrono::milliseconds(50)
                                                          : std::chrono::milliseconds(200);
    timers_.push_back(context_.core.loop.after(linger, [this] {
      forget_if_over();
      handlers_.on_gone();
    }));
  });
}

void DestinationMigration::forget_if_over() {
  if (plan::nothing_left(driver_.state())) (void)remove_journal(context_.core.journal_dir, meta_.id, Role::destination);
}

MigrationProgress DestinationMigration::progress() const {
  const plan::DestinationState& state = driver_.state();
  MigrationProgress out;
  out.id = meta_.id;
  out.workload = payload_.spec.name;
  out.source = meta_.peer;
  out.destination = context_.core.config.node.name;
  out.role = Role::destination;
  out.phase = plan::to_string(state.phase);
  out.memory = memory_wait();
  const std::string slow = record_watch_.sentence(state.phase == plan::DestinationPhase::activating ? out.workload : "");
  if (!trouble_.empty()) out.phase += ": " + trouble_;
  else if (!slow.empty()) out.phase += ": " + slow;
  else if (out.memory && alarming(*out.memory, now())) out.phase += ": " + explain(*out.memory, out.workload, out.source);
  out.before_commit = state.phase <= plan::DestinationPhase::fenced;
  const restore::PagerStatus& pager = pager_status();
  out.bytes_done = pager.progress.installed_pages * kPageSize;
  out.bytes_total = pager.progress.present_pages * kPageSize;
  out.elapsed_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now() - started_).count();
  return out;
}

MigrationFigures DestinationMigration::figures() const {
  const restore::PagerStatus& pager = pager_status();
  MigrationFigures out;
  out.progress = progress();
  out.bytes_processed = pager.progress.bytes_received;
  if (!pager.sealed) return out;
  out.bytes_remaining = pager.progress.remote_left * kPageSize;
  out.pages_missing = pager.progress.remote_left;
  out.faults = pager.progress.faults;
  const int64_t since = pager.progress.waits.since_us();
  out.fault_waiting_s = since == 0 ? 0 : static_cast<double>(std::max<int64_t>(to_us(now()) - since, 0)) / 1e6;
  return out;
}

std::string DestinationMigration::report_json() const {
  Report report;
  report.migration_id = meta_.id.hex();
  report.workload = payload_.spec.name;
  report.source_node = meta_.peer;
  report.destination_node = context_.core.config.node.name;
  const plan::DestinationState& state = driver_.state();
  const bool ended = state.phase == plan::DestinationPhase::finishing || state.phase == plan::DestinationPhase::done;
  if (ended) report.outcome = to_string(state.outcome);  // null: nobody knows yet
  report.reason = trouble_.empty() ? state.reason : trouble_;
  report.tls = tls_used_;
  report.packets.dropped = host_->egress_lost();
  report.packets.first_out_us = first_out_us_;
  report.phases_ms.restore = timeline_.milliseconds(standby_ == Standby::refreshed ? "refresh" : "restore");
  report.standby.used = standby_ == Standby::refreshed;
  report.standby.reason = standby_problem_;
  report.standby.refresh_ms = timeline_.milliseconds("refresh");
  const restore::PagerProgress& pager = pager_status().progress;
  report.lazy.faults = pager.faults;
  if (pager.faults > 0) {
    report.lazy.fault_p50_us = static_cast<double>(pager.fault_p50_us);
    report.lazy.fault_p99_us = static_cast<double>(pager.fault_p99_us);
  }
  // From the thaw to the last page, which may have been in before it. That the pager then closes its userfaultfds, for some
  // milliseconds, nobody waits for.
  if (thawed_at_ && filled_at_) report.lazy.complete_ms = std::max(0.0, to_ms(*filled_at_ - *thawed_at_));
  report.timeline = timeline_.finished();
  return to_json(report);
}

}  // namespace mose::agent
