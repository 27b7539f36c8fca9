// SPDX-License-Identifier: MIT
// What an agent finds of migrations that it, or one before it, has not ended: from their journals, without being asked
// where the answer is certain, else by `mose recover`.
#include <fmt/format.h>

#include <filesystem>

#include "agent/away_network.h"
#include "agent/check.h"
#include "agent/durable_file.h"
#include "agent/migration_paths.h"
#include "agent/migrations.h"
#include "agent/peer_query.h"
#include "agent/recovery.h"
#include "agent/wire_messages.h"
#include "base/log.h"
#include "handover/tap_holder.h"
#include "kernel/cgroup.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kRemoveBound = std::chrono::seconds(5);  // for the resources of a workload that has left
constexpr Nanoseconds kRegistryRetry = std::chrono::seconds(2);  // while the registry cannot be written

}  // namespace

// With its journal it waits for `mose recover`, and for the eyes of whoever asks for the status.
void Migrations::keep_if_undone(const MigrationId& id, Role role, const std::string& reason) {
  if (journal_exists(id, role)) undecided_.push_back({id, role, reason});
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
  const std::string reason = journal_exists(undecided.id, undecided.role) ? undecided.reason : "its journal " + path + " is gone";
  progress.phase = fmt::format("undecided: {}; `mose recover {}` shows what both nodes have of it, and what can be done", reason, id);
  return progress;
}

// Its journal was lost, or somebody has moved it: that its other side runs cannot be excluded. One that nobody has stopped yet is
// the start's to release: its agent died before the migration's first record.
void Migrations::claim_unjournalled() {
  for (const Workload* workload : core_.workloads.list()) {
    const bool arriving = workload->state == WorkloadState::arriving;
    auto id = MigrationId::parse(workload->migration);
    if (!id || !(arriving || workload->state == WorkloadState::moving)) continue;
    if (sources_.contains(*id) || destinations_.contains(*id) || undecided(*id) != nullptr) continue;
    auto group = Cgroup::open(workload->cgroup);
    if (!group || !group->populated().value_or(true) || (!arriving && !group->frozen().value_or(true))) continue;
    undecided_.push_back({*id, arriving ? Role::destination : Role::source, "its journal is gone", true});
    log::error("a workload's migration has left no journal: it stays as it is until `mose recover`",
               {{"workload", workload->spec.name}, {"migration", workload->migration}});
  }
}

// Of what nobody knows anything, nothing new may be made: its workload may stand still for a commit.
std::string Migrations::unread_journals() const {
  return fmt::format("node {} cannot read its journals ({}): what earlier moves have left there is not known. Mend that, and restart mosed there",
                     core_.config.node.name, journal_problem_);
}

void Migrations::recover_all() {
  auto entries = list_journals(core_.journal_dir);
  if (!entries) {
    journal_problem_ = entries.error().what;
    log::error("the journals cannot be read", {{"reason", journal_problem_}});
  } else {
    for (JournalEntry& entry : *entries) (void)recover_one(std::move(entry));
  }
  claim_unjournalled();
  retry_later();
}

// The migration has ended, and we died before it was tidied up. `left`: the workload is away by it, and nothing of it is
// needed here any more.
void Migrations::finish_source(const JournalMeta& meta, bool left) {
  const log::ForMigration named(meta.id.hex());
  const Workload* workload = core_.workloads.find(meta.workload);
  WorkloadSpec spec = workload != nullptr ? workload->spec : WorkloadSpec{};
  if (left && workload->state == WorkloadState::moving) {
    if (auto gone = core_.workloads.leave(meta.workload, meta.peer); !gone) {
      log::error("the workload's state could not be written", {{"workload", meta.workload}, {"reason", gone.error().what}});
    }
  }
  departing_.insert(meta.workload);
  core_.workers.run(
      [&config = core_.config, spec, left, id = meta.id]() -> Status {
        handover::TapHolder::end_left(migration_paths(config, id).ingress_holder);
        (void)remove_wiped(migration_paths(config, id).dir);
        return left ? remove_workload_resources(config, spec, kRemoveBound, LeftNetwork::stays) : Status{};
      },
      [this, meta, alive = alive_](const Status& removed) {
        if (!*alive) return;
        if (removed) {
          forget_journal(meta);
        } else {
          log::warn("what a workload has left could not be removed", {{"workload", meta.workload}, {"reason", removed.error().what}});
        }
        departing_.erase(meta.workload);
        name_is_free(meta.workload);
      });
}

// As long as the registry does not say where the workload is, the journal does.
void Migrations::forget_journal(const JournalMeta& meta) {
  if (core_.workloads.saved(meta.workload)) {
    (void)remove_journal(core_.journal_dir, meta.id, meta.role);
    return;
  }
  core_.loop.after(kRegistryRetry, [this, meta, alive = alive_] {
    if (*alive) forget_journal(meta);
  });
}

// Nothing where the history has nothing of it.
std::optional<Report> Migrations::told_report(const MigrationId& id) const {
  auto json = core_.history.find(id.hex());
  auto report = json ? report_from_json(*json) : Result<Report>(std::unexpected(json.error()));
  return report ? std::optional(std::move(*report)) : std::nullopt;
}

std::optional<Outcome> Migrations::told_outcome(const MigrationId& id) const {
  const std::optional<Report> parsed = told_report(id);
  if (!parsed) return std::nullopt;
  for (auto outcome = Outcome::complete; outcome <= Outcome::lost; outcome = static_cast<Outcome>(static_cast<int>(outcome) + 1)) {
    if (parsed->outcome == to_string(outcome)) return outcome;
  }
  return std::nullopt;
}

// What an agent that died had no time to write: for who asks, and for the other node, which may wait for the verdict or for
// the answer to its own.
void Migrations::remember(const JournalMeta& meta, Outcome outcome, const std::string& reason) {
  // One that was given up as undecided has ended since.
  if (told_outcome(meta.id).value_or(Outcome::unknown) != Outcome::unknown) return;
  Report report;
  report.migration_id = meta.id.hex();
  report.workload = meta.workload;
  report.source_node = meta.role == Role::source ? core_.config.node.name : meta.peer;
  report.destination_node = meta.role == Role::source ? meta.peer : core_.config.node.name;
  report.outcome = to_string(outcome);
  report.reason = reason;
  add_to_history(to_json(report));
}

bool Migrations::journal_exists(const MigrationId& id, Role role) const {
  std::error_code error;
  return std::filesystem::exists(Journal::file_path(core_.journal_dir, id, role), error);
}

// Whether nothing of it is left to be decided or served here; what is left to be tidied up is.
bool Migrations::source_has_ended(const JournalContents& contents) {
  const Workload* workload = core_.workloads.find(contents.meta.workload);
  const bool ours = workload != nullptr && workload->migration == contents.meta.id.hex();
  auto ended = ended_source(contents.records, ours, workload != nullptr && workload->init, told_outcome(contents.meta.id));
  if (!ended) return false;
  remember(contents.meta, ended->outcome, ended->reason);
  finish_source(contents.meta, ended->left && workload != nullptr && (ours || workload->state == WorkloadState::away));
  return true;
}

bool Migrations::recover_one(JournalEntry entry) {
  const log::ForMigration named(entry.id.hex());
  enum class Again : bool { no, yes };  // a journal that can be read is not better the next time
  auto give_up = [&](const std::string& reason, Again again = Again::no) {
    log::error("a migration cannot be decided from its journal and stays as it is until `mose recover`", {{"journal", entry.path}, {"reason", reason}});
    undecided_.push_back({entry.id, entry.role, reason, again == Again::yes});
    return false;
  };
  if (!entry.contents) return give_up("its journal is damaged: " + entry.contents.error().what, Again::yes);
  auto journal = Journal::open(core_.journal_dir, entry.id, entry.role);
  if (!journal) return give_up("its journal cannot be opened: " + journal.error().what, Again::yes);
  const JournalContents& contents = journal->contents();
  if (entry.role == Role::source && source_has_ended(contents)) return true;
  auto arrived = entry.role == Role::destination ? ended_destination(contents.records) : std::nullopt;
  if (arrived) remember(contents.meta, arrived->outcome, arrived->reason);
  if (contents.records.empty() || arrived) {
    (void)remove_journal(core_.journal_dir, entry.id, entry.role);
    return true;
  }
  // What the operator has configured since: a node that has another address now is not found at the one it had.
  JournalMeta meta = contents.meta;
  if (auto peer = core_.config.peers.find(meta.peer); peer != core_.config.peers.end()) meta.peer_address = peer->second.address;
  log::warn("a migration was interrupted", {{"role", to_string(entry.role)}, {"workload", contents.meta.workload},
                                            {"record", plan::to_string(contents.records.back())}});
  if (entry.role == Role::source) {
    const Workload* workload = core_.workloads.find(contents.meta.workload);
    // A tree that has ended meanwhile (the machine was started again, for one) changes nothing of what was decided.
    if (!workload || workload->migration != entry.id.hex()) return give_up("its workload " + contents.meta.workload + " is not here");
    MigrationOptions options = SourceMigration::noted_options(contents.notes);
    if (options.max_bandwidth_bps == 0) options.max_bandwidth_bps = core_.config.limits.bandwidth_max;
    auto migration = std::make_unique<SourceMigration>(context_, meta, workload->spec, workload->init, options, source_handlers(entry.id));
    SourceMigration& recovered = *migration;
    sources_[entry.id] = std::move(migration);
    recovered.recover(std::move(*journal));
    return true;
  }
  auto note = contents.notes.find("prepare");
  auto bytes = note == contents.notes.end() ? Result<std::string>(fail("it has no PREPARE")) : from_hex(note->second);
  auto payload = bytes ? decode_prepare(*bytes) : Result<PreparePayload>(std::unexpected(bytes.error()));
  if (!payload) return give_up("its journal cannot be used: " + payload.error().what);
  auto migration = std::make_unique<DestinationMigration>(context_, meta, std::move(*payload), destination_handlers(entry.id));
  DestinationMigration& recovered = *migration;
  destinations_[entry.id] = std::move(migration);
  recovered.recover(std::move(*journal));
  return true;
}

}  // namespace mose::agent
