// SPDX-License-Identifier: MIT
// `mose recover`: what both nodes have of a migration is gathered and compared, shown, and done when the operator agrees.
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "agent/durable_file.h"
#include "agent/migration_paths.h"
#include "agent/migrations.h"
#include "agent/orphans.h"
#include "agent/peer_query.h"
#include "base/log.h"
#include "base/rollback.h"
#include "kernel/cgroup.h"

namespace mose::agent {
namespace {

constexpr Nanoseconds kAbortThereBound = std::chrono::seconds(10);  // a destination kills its tree and takes its network away
constexpr Nanoseconds kDiscardBound = std::chrono::seconds(5);
// Between two looks at what could not be used at the start: a journal read, and one question to the other node where it can be.
constexpr Nanoseconds kUndecidedFirst = std::chrono::seconds(2);
constexpr Nanoseconds kUndecidedMax = std::chrono::minutes(1);

PeerSays says_of(const Result<MigrationRecord>& answer) {
  if (!answer) return PeerSays::unreachable;
  if (answer->unreadable) return PeerSays::unreadable;
  auto ended = [&](Outcome outcome) { return answer->outcome == to_string(outcome); };
  if (ended(Outcome::lost) || answer->record == plan::to_string(plan::Record::lost)) return PeerSays::lost;
  if (answer->verdict == plan::Verdict::abort) return PeerSays::aborted;
  const bool over = ended(Outcome::complete) || ended(Outcome::target_missed) || ended(Outcome::failed_after_commit);
  if (over || answer->record == plan::to_string(plan::Record::complete)) return PeerSays::complete;
  if (answer->verdict == plan::Verdict::commit) return PeerSays::committed;
  if (!answer->tells) return PeerSays::too_old;
  return answer->record.empty() && answer->phase.empty() ? PeerSays::nothing : PeerSays::undecided;
}

RecoverySide side_of(const std::string& node, Role role, const Result<MigrationRecord>& answer) {
  if (!answer) return {node, role, "", 0, "cannot be asked: " + answer.error().what};
  std::string state = answer->phase;
  if (state.empty() && !answer->outcome.empty()) state = "ended there: " + answer->outcome;
  if (state.empty()) state = to_string(says_of(answer));
  return {node, role, answer->record, answer->recorded_unix_ms, state};
}

// The only one that has something of it; else the one that could not be asked, if there is one.
void take_answers(RecoverySides& sides, const std::map<std::string, Result<MigrationRecord>>& asked) {
  sides.peer_says = asked.empty() ? PeerSays::unreachable : PeerSays::nothing;
  for (const auto& [node, answer] : asked) {
    const PeerSays says = says_of(answer);
    if (says == PeerSays::nothing) continue;
    const bool weaker = says == PeerSays::unreachable || says == PeerSays::too_old;
    if (weaker && sides.peer_says != PeerSays::nothing) continue;
    sides.peer_says = says;
    if (!weaker) sides.peer = node;
  }
  if (sides.peer.empty() && asked.size() == 1) sides.peer = asked.begin()->first;
}

}  // namespace

const Migrations::Undecided* Migrations::undecided(const MigrationId& id) const {
  auto it = std::ranges::find(undecided_, id, &Undecided::id);
  return it == undecided_.end() ? nullptr : &*it;
}

Migrations::OwnRecord Migrations::read_own(const MigrationId& id, Role role) const {
  const std::string path = Journal::file_path(core_.journal_dir, id, role);
  OwnRecord own{read_journal(path), 0};
  struct stat info;
  if (stat(path.c_str(), &info) == 0) own.unix_ms = info.st_mtim.tv_sec * 1000 + info.st_mtim.tv_nsec / 1'000'000;
  return own;
}

// False: this node has nothing of it that is not over.
bool Migrations::own_sides(const MigrationId& id, RecoverySides& sides, Recovery& out) const {
  sides.id = out.id = id;
  sides.node = core_.config.node.name;
  auto source = sources_.find(id);
  auto destination = destinations_.find(id);
  const Undecided* left = undecided(id);
  if (source != sources_.end()) {
    const SourceMigration& here = *source->second;
    sides.role = Role::source;
    sides.peer = here.meta().peer;
    sides.workload = here.meta().workload;
    sides.before_commit = here.before_commit();
    sides.committed = here.verdict() == plan::Verdict::commit;
    sides.has_run_there = here.has_run_there();
    sides.waiting = here.may_decide({plan::GoneChoice::end, true});
    sides.connected = sides.waiting && !here.may_decide({plan::GoneChoice::end});
    sides.phase = here.progress().phase;
    sides.pager_connected = here.has_pager();
    sides.tree_here = here.tree_alive();
  } else if (destination != destinations_.end()) {
    const DestinationMigration& here = *destination->second;
    sides.role = Role::destination;
    sides.peer = here.meta().peer;
    sides.workload = here.meta().workload;
    sides.waiting = here.waits_for_verdict();
    sides.phase = here.recover_sentence();
  } else if (left == nullptr) {
    return false;
  } else {
    sides.role = left->role;
    sides.journal = journal_exists(id, left->role) ? OwnJournal::unreadable : OwnJournal::gone;
    sides.phase = left->reason;
    if (const Workload* workload = workload_of(id)) {
      sides.workload = workload->spec.name;
      auto group = Cgroup::open(workload->cgroup);
      sides.tree_here = group && group->populated().value_or(true);
      sides.tree_frozen = group && group->frozen().value_or(false);
    }
  }
  out.workload = sides.workload;
  RecoverySide own{sides.node, sides.role, "", 0, sides.phase};
  if (sides.role == Role::destination && left == nullptr) own.state = destination->second->progress().phase;
  if (auto record = read_own(id, sides.role); record.contents && !record.contents->records.empty()) {
    own.record = plan::to_string(record.contents->records.back());
    own.recorded_unix_ms = record.unix_ms;
    if (left != nullptr) {
      sides.journal = OwnJournal::readable;
      sides.peer = record.contents->meta.peer;
      sides.workload = out.workload = record.contents->meta.workload;
      sides.committed = plan::committed(record.contents->records);
    }
  }
  out.sides.push_back(std::move(own));
  return true;
}

// Whoever it is with; without a journal that says who, every node that could be.
std::vector<JournalMeta> Migrations::to_be_asked(const MigrationId& id) const {
  RecoverySides sides;
  Recovery out;
  std::vector<JournalMeta> metas;
  if (!own_sides(id, sides, out)) return metas;
  for (const auto& [name, peer] : core_.config.peers) {
    if (sides.peer.empty() || sides.peer == name) metas.push_back({id, sides.role, sides.workload, name, peer.address, 1});
  }
  return metas;
}

void Migrations::ask_others(const MigrationId& id, std::function<void(const Asked&)> then) {
  const log::ForMigration named(id.hex());
  auto ask = [metas = to_be_asked(id), &peers = core_.peers, hello = context_.hello, bound = core_.config.limits.peer_connect_max] {
    Asked asked;
    for (const JournalMeta& meta : metas) asked.emplace(meta.peer, fail("not asked"));
    std::vector<std::jthread> asking;
    for (const JournalMeta& meta : metas) {
      asking.emplace_back(log::carried([&, meta, answer = &asked.at(meta.peer)] { *answer = ask_record(peers, meta, hello, bound); }));
    }
    asking.clear();
    return asked;
  };
  core_.workers.run(ask, [then = std::move(then), alive = alive_](const Asked& asked) {
    if (*alive) then(asked);
  });
}

void Migrations::recover(const RecoveryRequest& request, RecoveryDone done) {
  ask_others(request.id, [this, request, done = std::move(done)](const Asked& asked) { decide(request, asked, done); });
}

void Migrations::retry_later() {
  if (std::ranges::none_of(undecided_, &Undecided::since_start)) return;
  retry_pause_ = std::clamp(retry_pause_ * 2, kUndecidedFirst, kUndecidedMax);
  core_.loop.after(retry_pause_, [this, alive = alive_] {
    if (!*alive) return;
    using Looked = std::vector<std::pair<MigrationId, std::string>>;  // with the journal's path
    Looked looked;
    for (const Undecided& left : undecided_) {
      if (left.since_start) looked.emplace_back(left.id, Journal::file_path(core_.journal_dir, left.id, left.role));
    }
    core_.workers.run(
        [looked = std::move(looked)]() mutable {
          // Without a journal there is nothing to ask about: what is left then is the operator's to say.
          std::erase_if(looked, [](const auto& one) { return !read_journal(one.second); });
          return looked;
        },
        [this, alive](const Looked& readable) {
          if (!*alive) return;
          for (const auto& [id, path] : readable) retry(id);
          retry_later();
        });
  });
}

void Migrations::retry(const MigrationId& id) {
  ask_others(id, [this, id](const Asked& asked) {
    RecoverySides sides;
    Recovery shown;
    if (undecided(id) == nullptr || !own_sides(id, sides, shown)) return;
    take_answers(sides, asked);
    if (!goes_on_alone(sides)) return;
    log::warn("a journal that could not be used can be now", {{"role", to_string(sides.role)}});
    if (auto gone_on = go_on(id, sides.role); !gone_on) log::warn("a migration stays undecided", {{"reason", gone_on.error().reason}});
  });
}

void Migrations::decide(const RecoveryRequest& request, const Asked& asked, const RecoveryDone& done) {
  RecoverySides sides;
  Recovery out;
  // Now: it may have gone on while the other node was asked.
  if (!own_sides(request.id, sides, out)) return done(refuse(fmt::format("migration {} has ended meanwhile: see mose history", request.id.hex()), kExitUsage));
  take_answers(sides, asked);
  const Role theirs = sides.role == Role::source ? Role::destination : Role::source;
  for (const auto& [node, answer] : asked) out.sides.push_back(side_of(node, theirs, answer));
  out.choice = choose_recovery(sides, request.wish);
  if (!request.act) return done(out);
  const std::string action = to_string(out.choice.action);
  if (out.choice.action == RecoveryAction::refuse) return done(refuse(out.choice.what));
  if (request.expected && !harmless(out.choice.action) && *request.expected != RecoveryShown{action, out.choice.certain, out.choice.warning}) {
    return done(refuse(fmt::format("nothing was done: meanwhile it is not what was shown any more but \"{}\": {}{}{}", action, out.choice.what,
                                   out.choice.warning.empty() ? "" : ": ", out.choice.warning)));
  }
  if (!harmless(out.choice.action)) {
    log::warn("an operator recovers a migration", {{"action", action}, {"certain", out.choice.certain ? "yes" : "no"},
                                                   {"what", out.choice.what}});
  }
  act(sides, std::move(out), done);
}

void Migrations::act(const RecoverySides& sides, Recovery recovery, const RecoveryDone& done) {
  auto ended = [recovery, done](Answer<void> answer) mutable {
    if (!answer) return done(std::unexpected(answer.error()));
    recovery.done = true;
    done(recovery);
  };
  auto source = sources_.find(sides.id);
  auto destination = destinations_.find(sides.id);
  auto gone = [&](plan::GoneChoice choice) -> Answer<void> {
    if (source->second->decide({choice, has_nothing(sides)})) return {};
    return refuse("the migration went on meanwhile: look at it again", 1);
  };
  switch (recovery.choice.action) {
    case RecoveryAction::none:
      if (destination != destinations_.end()) destination->second->ask_now();
      return ended({});
    case RecoveryAction::go_on:
      return ended(go_on(sides.id, sides.role));
    case RecoveryAction::resume:
      if (source != sources_.end()) return ended(gone(plan::GoneChoice::resume));
      return resume_without_journal(sides, recovery.choice.abort_there_first, ended);
    case RecoveryAction::end:
      if (source != sources_.end()) return ended(gone(plan::GoneChoice::end));
      return ended(go_on_from(sides, {plan::Record::begun, plan::Record::commit,
                                      sides.peer_says == PeerSays::complete ? plan::Record::complete : plan::Record::lost}));
    case RecoveryAction::discard:
      if (destination == destinations_.end()) return discard_without_journal(sides, ended);
      destination->second->give_up();
      return ended({});
    case RecoveryAction::forget:
      forget(sides);
      return ended({});
    case RecoveryAction::refuse:
      return;
  }
}

Answer<void> Migrations::go_on(const MigrationId& id, Role role) {
  std::erase_if(undecided_, [&](const Undecided& u) { return u.id == id && u.role == role; });
  const std::string path = Journal::file_path(core_.journal_dir, id, role);
  if (recover_one({path, id, role, read_journal(path)})) return {};
  return refuse(fmt::format("migration {} stays undecided: {}", id.hex(), undecided_.back().reason), 1);
}

void Migrations::resume_without_journal(const RecoverySides& sides, bool abort_there_first, std::function<void(Answer<void>)> done) {
  const std::vector<plan::Record> records{plan::Record::begun, plan::Record::aborted};
  if (!abort_there_first) return done(go_on_from(sides, records));
  JournalMeta meta{sides.id, Role::source, sides.workload, sides.peer, core_.config.peers.at(sides.peer).address, 1};
  core_.workers.run(
      [&peers = core_.peers, meta, hello = context_.hello] {
        return ask_to_abort(peers, meta, hello, kAbortThereBound, "the operator of the source has recovered it there");
      },
      [this, sides, records, done = std::move(done), alive = alive_](const Status& aborted) {
        if (!*alive) return;
        if (!aborted) return done(refuse("nothing was done: " + aborted.error().what, 1));
        if (undecided(sides.id) == nullptr) return done(refuse("the migration was recovered meanwhile", 1));
        done(go_on_from(sides, records));
      });
}

// A journal that says what was decided, from which it goes on as any other: what it says is on the disk before anything is done.
// One that could not be read stays beside it.
Answer<void> Migrations::go_on_from(const RecoverySides& sides, const std::vector<plan::Record>& records) {
  namespace fs = std::filesystem;
  const std::string path = Journal::file_path(core_.journal_dir, sides.id, sides.role), aside = path + ".unreadable";
  // All of it under its name, or nothing: a part of it says something else.
  const std::string beside = core_.journal_dir + "/decided";
  std::error_code error;
  Rollback scratch;
  scratch.push([&beside] { (void)remove_tree(beside); });
  (void)remove_tree(beside);  // of an agent that has died
  if (auto made = make_directories(beside); !made) return refuse(made.error().what, 1);
  auto peer = core_.config.peers.find(sides.peer);
  const std::string address = peer == core_.config.peers.end() ? "" : peer->second.address;
  auto journal = Journal::create(beside, {sides.id, sides.role, sides.workload, sides.peer, address, 1});
  if (!journal) return refuse(journal.error().what, 1);
  for (plan::Record record : records) {
    if (auto written = journal->append(record); !written) return refuse(written.error().what, 1);
  }
  if (journal_exists(sides.id, sides.role)) {
    fs::remove(aside, error);
    fs::create_hard_link(path, aside, error);
    if (error) return refuse(fmt::format("{} cannot be kept as {}: {}", path, aside, error.message()), 1);
  }
  fs::rename(journal->path(), path, error);
  if (error) return refuse(fmt::format("{} cannot be put in place: {}", path, error.message()), 1);
  if (auto synced = sync_directory(core_.journal_dir); !synced) return refuse(synced.error().what, 1);
  return go_on(sides.id, sides.role);
}

void Migrations::discard_without_journal(const RecoverySides& sides, std::function<void(Answer<void>)> done) {
  const Workload* workload = workload_of(sides.id);
  if (workload == nullptr) return done(refuse("its workload is not here any more", 1));
  // Before anything is killed. The source hears from it that it never ran here, and may resume: of one that is stopped that is so as long as
  // nothing of what it sends has left. One whose pager has failed stands as well.
  const bool decided_there = sides.peer_says == PeerSays::aborted || sides.peer_says == PeerSays::lost;
  const bool never_ran = decided_there || (sides.tree_frozen && !may_have_answered(core_.config, workload->spec.name));
  remember({sides.id, Role::destination, sides.workload, sides.peer, "", 1}, never_ran ? Outcome::failed : Outcome::lost,
           "thrown away by the operator of the destination");
  core_.workers.run(
      [&config = core_.config, spec = workload->spec, id = sides.id.hex()]() -> Status {
        MOSE_TRY(discard_workload(config, spec, kDiscardBound));
        // Its tree is dead. What cannot be removed here is `mose cleanup`'s, which says why.
        if (auto rest = discard_migration(config, id, false); !rest) {
          log::warn("what a migration has left could not be removed", {{"reason", rest.error().what}});
        }
        return {};
      },
      [this, sides, done = std::move(done), alive = alive_](const Status& removed) {
        if (!*alive) return;
        if (!removed) return done(refuse(removed.error().what, 1));
        forget(sides);
        done({});
      });
}

void Migrations::forget(const RecoverySides& sides) {
  std::erase_if(undecided_, [&](const Undecided& u) { return u.id == sides.id; });
  const std::string path = Journal::file_path(core_.journal_dir, sides.id, sides.role);
  std::error_code error;
  if (journal_exists(sides.id, sides.role)) std::filesystem::rename(path, path + ".unreadable", error);
  const Workload* workload = workload_of(sides.id);
  if (workload == nullptr) return;
  if (workload->state == WorkloadState::arriving) return core_.workloads.forget_arrival(workload->spec.name);
  // Whoever asks hears that nobody knows: it may have been committed.
  remember({sides.id, Role::source, sides.workload, sides.peer, "", 1}, Outcome::unknown, "forgotten: the journal of the source was gone");
  if (auto stays = core_.workloads.stay(workload->spec.name); !stays) {
    log::error("the workload cannot be released", {{"workload", sides.workload}, {"reason", stays.error().what}});
  }
}

}  // namespace mose::agent
