// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/destination_migration.h"
#include "agent/migration_context.h"
#include "agent/migration_tally.h"
#include "agent/migration_service.h"
#include "agent/peer_query.h"
#include "agent/peer_server.h"
#include "agent/source_migration.h"

namespace mose::agent {

// All migrations of this node, both roles, and the door for other nodes. Implements the seam to the agent's core.
class Migrations : public MigrationService {
 public:
  static Result<std::unique_ptr<Migrations>> create(Core& core);
  ~Migrations() override;

  Answer<MigrationId> start(const std::string& workload, const std::string& node, const MigrationOptions& options) override;
  Answer<void> cancel(const MigrationId& id) override;
  void recover(const RecoveryRequest& request, std::function<void(Answer<Recovery>)> done) override;
  void preflight(const std::string& workload, const std::string& node,
                 std::function<void(Answer<std::vector<std::string>>)> done) override;
  void after_departure(const std::string& workload, std::function<void()> next) override;
  void when_criu_is_tried(std::function<void()> next) override;
  void workload_ended(const std::string& workload, const std::string& how) override;
  [[nodiscard]] std::vector<MigrationProgress> list() const override;
  [[nodiscard]] ServiceFigures figures() const override;
  [[nodiscard]] Answer<std::string> show(const MigrationId& id) const override;
  void subscribe(Listener listener) override { listener_ = std::move(listener); }
  void recover_all() override;
  void shut_down(std::function<void()> done) override;

 private:
  explicit Migrations(Core& core);
  void prepare_criu();
  void criu_has_been_tried();
  [[nodiscard]] Answer<void> check_start(const std::string& workload, const std::string& node) const;
  // The arrival of a workload that has not ended; null: none.
  [[nodiscard]] const DestinationMigration* arrival_of(const std::string& workload) const;
  [[nodiscard]] SourceMigration::Handlers source_handlers(const MigrationId& id);
  [[nodiscard]] DestinationMigration::Handlers destination_handlers(const MigrationId& id);
  void on_end(const MigrationEnd& end);
  void add_to_history(const std::string& report_json);
  // The last trace of a workload's departure has not gone.
  [[nodiscard]] bool is_leaving(const std::string& workload) const;
  // An arrival of it is being thrown away.
  [[nodiscard]] bool is_given_up(const std::string& workload) const;
  void name_is_free(const std::string& workload);
  void keep_if_undone(const MigrationId& id, Role role, const std::string& reason);
  // False: the journal cannot decide; it stays, and its migration is listed as undecided.
  bool recover_one(JournalEntry entry);
  [[nodiscard]] const Workload* workload_of(const MigrationId& id) const;
  [[nodiscard]] bool journal_exists(const MigrationId& id, Role role) const;
  bool source_has_ended(const JournalContents& contents);
  void finish_source(const JournalMeta& meta, bool left);
  void forget_journal(const JournalMeta& meta);
  [[nodiscard]] std::string unread_journals() const;
  [[nodiscard]] std::optional<Report> told_report(const MigrationId& id) const;
  [[nodiscard]] std::optional<Outcome> told_outcome(const MigrationId& id) const;
  void remember(const JournalMeta& meta, Outcome outcome, const std::string& reason);

  // Other nodes.
  [[nodiscard]] Status accept(const move::StreamId& stream, const move::Hello& hello, const move::NodeCertificate* certificate) const;
  void on_connection(PeerServer::Incoming incoming);
  [[nodiscard]] PeerConnection::Handlers loose_handlers(uint64_t number, const move::StreamId& stream);
  void on_first_frame(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream, wire::FrameType type,
                      const std::string& payload);
  // Why a workload cannot come yet, though it may in a moment; empty: it can.
  [[nodiscard]] std::string must_wait(const std::string& workload) const;
  // What is held already keeps its time.
  void hold_arrival(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream,
                    const std::string& workload, const std::string& payload, Timestamp until);
  void begin_waiting_arrival(const std::string& workload);
  void begin_arrival(std::unique_ptr<PeerConnection> connection, const move::StreamId& stream, const std::string& payload, Timestamp wait_until);
  void answer_stray(std::unique_ptr<PeerConnection> connection, const MigrationId& id, wire::FrameType type);
  [[nodiscard]] MigrationRecord record_of(const MigrationId& id, const std::string& peer) const;
  void add_outcome(MigrationRecord& out, const MigrationId& id, const std::string& peer) const;

  // migrations_decide.cpp: `mose recover`.
  using Asked = std::map<std::string, Result<MigrationRecord>>;  // by node
  using RecoveryDone = std::function<void(Answer<Recovery>)>;
  struct OwnRecord {
    Result<JournalContents> contents;
    int64_t unix_ms = 0;  // when it was written to last
  };
  [[nodiscard]] OwnRecord read_own(const MigrationId& id, Role role) const;
  [[nodiscard]] bool own_sides(const MigrationId& id, RecoverySides& sides, Recovery& out) const;
  [[nodiscard]] std::vector<JournalMeta> to_be_asked(const MigrationId& id) const;
  void ask_others(const MigrationId& id, std::function<void(const Asked&)> then);
  // Those that this agent has found and could not use, until each of them is carried out or forgotten.
  void retry_later();
  void retry(const MigrationId& id);
  void decide(const RecoveryRequest& request, const Asked& asked, const RecoveryDone& done);
  void act(const RecoverySides& sides, Recovery recovery, const RecoveryDone& done);
  [[nodiscard]] Answer<void> go_on(const MigrationId& id, Role role);
  void resume_without_journal(const RecoverySides& sides, bool abort_there_first, std::function<void(Answer<void>)> done);
  [[nodiscard]] Answer<void> go_on_from(const RecoverySides& sides, const std::vector<plan::Record>& records);
  void discard_without_journal(const RecoverySides& sides, std::function<void(Answer<void>)> done);
  void forget(const RecoverySides& sides);
  // Workloads that are stopped here, or have come, by a migration of which there is no journal.
  void claim_unjournalled();

  Core& core_;
  MigrationContext context_;
  Listener listener_;
  std::unique_ptr<PeerServer> server_;
  RefusalCounts refused_{};  // by a server that is no more
  MigrationTally ended_;
  std::string journal_problem_;
  std::map<MigrationId, std::unique_ptr<SourceMigration>> sources_;
  std::map<MigrationId, std::unique_ptr<DestinationMigration>> destinations_;
  // Connections whose first frame has not come, or whose last answer is still leaving.
  std::map<uint64_t, std::unique_ptr<PeerConnection>> loose_;  // by a number of their own: addresses come again
  uint64_t loose_next_ = 1;
  // PREPARE that waits for the last trace of the workload's departure or of an arrival that was given up, or for CRIU.
  struct WaitingArrival {
    uint64_t number = 0;  // of its connection in loose_
    move::StreamId stream;
    std::string payload;
    Timestamp until{};
  };
  std::map<std::string, WaitingArrival> waiting_arrivals_;
  // Workloads whose departure an earlier agent has not tidied up.
  std::set<std::string> departing_;
  // Those who want to start a workload of that name here again, and wait for the same.
  std::multimap<std::string, std::function<void()>> waiting_starts_;
  bool criu_tried_ = false;
  std::vector<std::function<void()>> waiting_for_criu_;
  // Set while a departure waits for the end of an arrival.
  std::map<std::string, std::function<void()>> waiting_departures_;
  // Journals that cannot be used: what they speak of stays as it is until `mose recover`.
  struct Undecided {
    MigrationId id;
    Role role;
    std::string reason;
    bool since_start = false;  // nothing of it was carried out yet, for want of its journal: that is looked at again, with growing pauses
  };
  [[nodiscard]] const Undecided* undecided(const MigrationId& id) const;
  [[nodiscard]] MigrationProgress progress_of(const Undecided& undecided) const;
  std::vector<Undecided> undecided_;
  Nanoseconds retry_pause_{0};
  std::function<void()> shut_down_done_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mose::agent
