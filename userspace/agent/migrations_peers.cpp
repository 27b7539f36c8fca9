// SPDX-License-Identifier: MIT
// What other nodes ask: the door for their connections, and the first word on each.
#include <fmt/format.h>

#include <algorithm>

#include "agent/away_network.h"
#include "agent/migrations.h"
#include "agent/peer_query.h"
#include "agent/wire_messages.h"
#include "base/log.h"

namespace mose::agent {
namespace {

// An answer that nobody waits for any more is dropped after that.
constexpr Nanoseconds kLooseMax = std::chrono::seconds(5);
// Of one node: some migrations at a time, each with a verdict to ask.
constexpr long kLooseOfANodeMax = 32;
// PREPARE waits so long for the clearing away of an earlier move, or for CRIU, whose trial is bounded by 20 s; shorter than its
// source waits for the answer.
constexpr Nanoseconds kArrivalWaitMax = std::chrono::seconds(25);
static_assert(kArrivalWaitMax < plan::kPrepareDeadline);

}  // namespace

Status Migrations::accept(const move::StreamId& stream, const move::Hello& hello, const move::NodeCertificate* certificate) const {
  if (!core_.config.peers.contains(hello.node)) {
    return fail(fmt::format("node {} does not know node \"{}\": add [peers.{}] to its configuration", core_.config.node.name, hello.node, hello.node));
  }
  if (hello.purpose == move::Purpose::control) {
    // A source that comes again brings its verdict: it was let in when it began, and what has begun must end.
    auto known = destinations_.find(stream.migration);
    const bool again = known != destinations_.end() && known->second->meta().peer == hello.node;
    return again ? Status{} : core_.peers.check_source(hello.node, certificate);
  }
  if (hello.purpose != move::Purpose::bulk && hello.purpose != move::Purpose::urgent) return {};
  // Its role was asked for when the migration began. A token is no use to another node.
  auto it = sources_.find(stream.migration);
  const bool its_own = it != sources_.end() && it->second->meta().peer == hello.node;
  if (!its_own || !it->second->accepts(hello.token)) return fail("no such migration here");
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
  const auto waiting = std::ranges::count_if(loose_, [&](const auto& entry) { return entry.second->peer_node() == incoming.hello.node; });
  if (waiting >= kLooseOfANodeMax) {
    return log::warn("a node has too many connections here that say nothing", {{"node", incoming.hello.node}, {"connections", waiting}});
  }
  const log::ForMigration named(incoming.stream.migration.hex());  // all that comes by this connection
  auto connection = std::make_unique<PeerConnection>(core_.loop, std::move(incoming.socket), incoming.stream, incoming.hello.node);
  connection->limit_images(0);  // until it belongs to a migration
  PeerConnection* raw = connection.get();
  const uint64_t number = loose_next_++;
  loose_[number] = std::move(connection);
  if (!raw->open(loose_handlers(number, incoming.stream))) loose_.erase(number);
  core_.loop.after(kLooseMax, [this, number, alive = alive_] {
    if (*alive) loose_.erase(number);
  });
}

PeerConnection::Handlers Migrations::loose_handlers(uint64_t number, const move::StreamId& stream) {
  PeerConnection::Handlers handlers;
  handlers.on_frame = [this, number, stream](wire::FrameType type, const std::string& payload) {
    auto node = loose_.extract(number);
    if (node) on_first_frame(std::move(node.mapped()), stream, type, payload);
  };
  handlers.on_closed = [this, number](const std::string&) {
    core_.loop.post([this, number, alive = alive_] {
      if (*alive) loose_.erase(number);
    });
  };
  return handlers;
}

void Migrations::on_first_frame(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream, wire::FrameType type,
                                const std::string& payload) {
  if (type == wire::FrameType::query_verdict) {
    connection->send(wire::FrameType::verdict, encode_record(record_of(stream.migration, connection->peer_node())));
    auto asked_about = sources_.find(stream.migration);
    if (asked_about != sources_.end() && asked_about->second->meta().peer == connection->peer_node()) {
      asked_about->second->end_retry_pause();
    }
    return answer_stray(std::move(connection), stream.migration, wire::FrameType::invalid);
  }
  auto it = destinations_.find(stream.migration);
  if (it != destinations_.end() && it->second->meta().peer != connection->peer_node()) {
    log::warn("a node speaks for a migration that is not its own", {{"node", connection->peer_node()}});
    return;
  }
  if (it != destinations_.end()) {
    // The source again, after a loss: its first frame is its verdict.
    connection->limit_images(core_.config.limits.images_bytes_max);
    it->second->adopt_connection(std::move(connection));
    it->second->on_frame(type, payload);
    return;
  }
  if (type == wire::FrameType::prepare) return begin_arrival(std::move(connection), stream, payload, now() + kArrivalWaitMax);
  answer_stray(std::move(connection), stream.migration, type);
}

// The workload may just have left this node: its network still redirects stragglers. Or an arrival of it has been given
// up, whose source is free for the next attempt before everything is thrown away here. Or this agent has just been started.
std::string Migrations::must_wait(const std::string& workload) const {
  if (is_leaving(workload) || is_given_up(workload)) {
    return fmt::format("node {} is still clearing away what an earlier move of {} has left: see `mose status` there",
                       core_.config.node.name, workload);
  }
  return criu_tried_ ? "" : kCriuBeingPrepared;
}

// Meanwhile the connection is watched: whoever has sent PREPARE may change his mind, or go.
void Migrations::hold_arrival(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream,
                              const std::string& workload, const std::string& payload, Timestamp until) {
  const uint64_t number = loose_next_++;
  connection->set_handlers(loose_handlers(number, stream));
  loose_[number] = std::move(connection);
  waiting_arrivals_[workload] = {number, stream, payload, until};
  core_.loop.after(std::max(until - now(), Nanoseconds(0)), [this, number, stream, workload, alive = alive_] {
    auto waiting = *alive ? loose_.extract(number) : decltype(loose_)::node_type();
    if (!waiting) return;
    const std::string reason = must_wait(workload);
    waiting.mapped()->send(wire::FrameType::refused,
                           encode_reason(reason.empty() ? fmt::format("another move of {} to this node was asked for since", workload) : reason));
    answer_stray(std::move(waiting.mapped()), stream.migration, wire::FrameType::invalid);
  });
}

void Migrations::begin_waiting_arrival(const std::string& workload) {
  auto waiting = waiting_arrivals_.extract(workload);
  auto connection = waiting ? loose_.extract(waiting.mapped().number) : decltype(loose_)::node_type();
  if (connection) begin_arrival(std::move(connection.mapped()), waiting.mapped().stream, waiting.mapped().payload, waiting.mapped().until);
}

void Migrations::begin_arrival(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream, const std::string& payload, Timestamp wait_until) {
  // Here and not only at HELLO: a connection that asks for a verdict, or that came back for a migration which has ended
  // meanwhile, was let in without.
  Status may = core_.peers.check_source(connection->peer_node(), connection->certificate());
  auto prepare = may ? decode_prepare(payload) : Result<PreparePayload>(std::unexpected(may.error()));
  if (!prepare) {
    if (!may) log::warn("a workload is refused", {{"node", connection->peer_node()}, {"reason", may.error().what}});
    connection->send(wire::FrameType::refused, encode_reason(prepare.error().what));
    return answer_stray(std::move(connection), stream.migration, wire::FrameType::invalid);
  }
  if (!must_wait(prepare->spec.name).empty()) return hold_arrival(std::move(connection), stream, prepare->spec.name, payload, wait_until);
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
  if (!journal_problem_.empty()) {
    connection->send(wire::FrameType::refused, encode_reason(unread_journals()));
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
  connection->limit_images(core_.config.limits.images_bytes_max);
  destinations_[stream.migration] = std::move(migration);
  started.begin(std::move(connection));
}

// A source that asks about a migration which has ended or never was here gets the answer that it waits for.
void Migrations::answer_stray(std::unique_ptr<PeerConnection> connection, const MigrationId& id, wire::FrameType type) {
  // A journal that could not be used: the tree that it speaks of may still be here, stopped.
  const bool undecided = !journal_problem_.empty() || journal_exists(id, Role::destination) || this->undecided(id) != nullptr;
  if (type == wire::FrameType::abort && undecided) {
    connection->send(wire::FrameType::failed, encode_reason("the journal of that migration cannot be used here: see `mose status`"));
  } else if (type == wire::FrameType::abort) {
    connection->send(wire::FrameType::aborted);
  }
  if (type == wire::FrameType::commit) {
    auto report = core_.history.find(id.hex());
    auto parsed = report ? report_from_json(*report) : Result<Report>(std::unexpected(report.error()));
    const bool its_own = parsed && parsed->source_node == connection->peer_node();
    const bool ran_here = parsed && (parsed->outcome == to_string(Outcome::complete) || parsed->outcome == to_string(Outcome::lost));
    const bool never_ran = parsed && parsed->outcome == to_string(Outcome::failed);
    if (!undecided && its_own && never_ran) {
      connection->send(wire::FrameType::aborted, encode_reason(parsed->reason));  // and never will: discarded before it knew of the commit
    } else if (!undecided && its_own && ran_here) {
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

// What whoever it is with may know. Others hear no more than that a journal is there which nobody can read: it may be theirs.
MigrationRecord Migrations::record_of(const MigrationId& id, const std::string& peer) const {
  MigrationRecord out;
  if (auto it = sources_.find(id); it != sources_.end()) {
    if (it->second->meta().peer != peer) return out;
    out.verdict = it->second->verdict();
    out.phase = it->second->progress().phase;
  } else if (auto at = destinations_.find(id); at != destinations_.end()) {
    if (at->second->meta().peer != peer) return out;
    out.verdict = at->second->heard();
    out.phase = at->second->progress().phase;
  }
  // Its journal is gone, and its workload is here: it may have run.
  if (const Undecided* left = undecided(id)) out.unreadable = !journal_exists(id, left->role);
  for (Role role : {Role::source, Role::destination}) {
    if (!journal_exists(id, role)) continue;
    OwnRecord own = read_own(id, role);
    out.unreadable = !own.contents;
    if (!own.contents || own.contents->meta.peer != peer || own.contents->records.empty()) continue;
    const auto& records = own.contents->records;
    out.record = plan::to_string(records.back());
    out.recorded_unix_ms = own.unix_ms;
    // Of an undecided one: who carries it out has said already how it was decided.
    if (out.phase.empty() && role == Role::destination) {
      if (plan::committed(records)) out.verdict = plan::Verdict::commit;
      else if (plan::contains(records, plan::Record::aborted)) out.verdict = plan::Verdict::abort;
    }
  }
  add_outcome(out, id, peer);
  return out;
}

// Ended here. A committed one ends only after its destination has said COMPLETE, or when it was given up: whoever still asks never
// ran. Without any memory of it nothing is claimed.
void Migrations::add_outcome(MigrationRecord& out, const MigrationId& id, const std::string& peer) const {
  const std::optional<Report> parsed = told_report(id);
  if (!parsed) return;
  const bool was_source = parsed->source_node == core_.config.node.name;
  if ((was_source ? parsed->destination_node : parsed->source_node) != peer) return;
  out.outcome = parsed->outcome;
  if (!out.phase.empty()) return;
  const bool stayed = parsed->outcome == to_string(Outcome::failed) || parsed->outcome == to_string(Outcome::cancelled) ||
                      parsed->outcome == to_string(Outcome::refused);
  if (stayed || (was_source && parsed->outcome == to_string(Outcome::lost))) out.verdict = plan::Verdict::abort;
  else if (!was_source && parsed->outcome != to_string(Outcome::unknown)) out.verdict = plan::Verdict::commit;
}

}  // namespace mose::agent
