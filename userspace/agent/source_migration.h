// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/journal.h"
#include "agent/migration_context.h"
#include "agent/peer_connection.h"
#include "agent/record_watch.h"
#include "agent/source_host.h"
#include "agent/source_memory.h"
#include "agent/step_driver.h"
#include "agent/timeline.h"
#include "agent/wire_messages.h"
#include "agent/worker.h"
#include "plan/source.h"

namespace mose::agent {

// One migration at its source: runs plan/source.h in the loop thread and carries out its actions on lanes.
//
// All that it does, on every thread, is logged as of this migration: each way into it names it, the loop and the lanes carry that on.
//
// Life: begin() (or recover() after a restart) -> on_end once -> on_gone, after which the owner destroys it. All calls in
// the loop thread.
class SourceMigration {
 public:
  struct Handlers {
    std::function<void(const MigrationEnd&)> on_end;  // the outcome is final (background work may go on)
    std::function<void(const MigrationEnd&)> on_alarm;  // after on_end: what its report says now
    std::function<void()> on_gone;                      // nothing is left to do
  };
  SourceMigration(MigrationContext& context, JournalMeta meta, WorkloadSpec spec,
                  std::shared_ptr<const ProcessHandle> init, MigrationOptions options, Handlers handlers);
  ~SourceMigration();

  void begin();
  // What the operator asked for, as far as an agent that goes on with it needs it.
  [[nodiscard]] static MigrationOptions noted_options(const Notes& notes);
  void recover(Journal journal);
  void cancel();
  // The operator's word that the destination will never run it. False, and nothing happens: see plan::may_decide().
  bool decide(const plan::DestinationGone& gone);
  [[nodiscard]] bool may_decide(const plan::DestinationGone& gone) const { return plan::may_decide(driver_.state(), gone); }
  // The destination has said so, to this agent or to one before it.
  [[nodiscard]] bool has_run_there() const { return driver_.state().has_run_there; }
  [[nodiscard]] bool tree_alive() const { return host_->tree_alive(); }
  [[nodiscard]] bool has_pager() const { return memory_->has_pager(); }
  // The destination has shown that it is there: no pause between attempts to reach it any more.
  void end_retry_pause();

  // A data connection of the destination's pager, HELLO read and checked; its token decides.
  [[nodiscard]] bool accepts(const std::string& token) const;
  void attach(const move::Hello& hello, move::StreamSocket socket);

  [[nodiscard]] MigrationProgress progress() const;
  [[nodiscard]] MigrationFigures figures() const;
  [[nodiscard]] plan::Verdict verdict() const { return plan::verdict(driver_.state()); }
  [[nodiscard]] bool before_commit() const { return plan::before_commit(driver_.state()); }
  [[nodiscard]] const JournalMeta& meta() const { return meta_; }
  // Of its end; empty: none is needed.
  [[nodiscard]] const std::string& reason() const { return driver_.state().reason; }
  [[nodiscard]] std::string report_json() const;

 private:
  struct Machine {
    using State = plan::SourceState;
    using Event = plan::SourceEvent;
    using Step = plan::SourceStep;
    using Action = plan::SourceAction;
    static Step step(const State& state, const Event& event, Timestamp t) { return plan::step(state, event, t); }
    static Event tick() { return plan::Tick{}; }
  };

  void execute(const plan::SourceAction& action);
  void changed();
  void alarm_late();
  void done(plan::SourceActionKind kind, const Status& status, plan::RoundStats stats = {});
  void on_host(plan::SourceActionKind kind, std::function<Status()> job);
  void note_trouble(std::optional<plan::SourceActionKind> kind, const std::string& reason);

  [[nodiscard]] bool tree_is_lost() const;
  [[nodiscard]] std::string lost_tree() const;

  void preflight();
  void record(plan::Record record);
  [[nodiscard]] std::string explain_slow_record() const;
  void connect();
  void note_that_it_runs();
  void send(const plan::SourceAction& action);
  // source_rounds.cpp
  void precopy_round(const plan::SourceAction& action);
  void prepare_freeze();
  void send_round(const plan::RoundAhead& ahead, bool closing);
  void watch_throttle(ProcessHandle process);
  void unwatch_throttle();
  // source_standby.cpp
  void make_standby();
  void standby_ended(const std::string& problem);
  void standby_given_up();
  [[nodiscard]] Status send_standby(ImagesPayload images, Timestamp clocks_read);
  [[nodiscard]] std::optional<std::string> no_standby() const;
  [[nodiscard]] bool standby_stands() const;  // as far as has been heard
  [[nodiscard]] std::string standby_reason() const;
  [[nodiscard]] Status check_images(const std::string& encoded) const;
  void arm_dump();
  void await_disk(std::function<void()> then);
  void dump();
  void final_scan();
  void finish_dump();
  void redirect();
  void resume(const std::string& reason);
  void wait_retry(unsigned failures);
  void close();
  void end_close();
  void adopt_connection(move::StreamSocket socket);
  void on_frame(wire::FrameType type, const std::string& payload);
  [[nodiscard]] Report report() const;
  void add_packets(Report& report) const;
  void add_measured(Report& report) const;

  MigrationContext& context_;
  OwnPosts post_;
  JournalMeta meta_;
  WorkloadSpec spec_;
  MigrationOptions options_;
  Handlers handlers_;
  Timeline timeline_;
  std::string token_;
  Timestamp started_ = now();
  bool ended_ = false;
  bool alarmed_ = false;        // that two may run
  bool recovered_ = false;      // goes on for an agent that has died
  std::string noted_strategy_;  // of that one
  uint64_t bytes_done_ = 0;

  std::optional<Journal> journal_;
  std::shared_ptr<const ProcessHandle> init_;
  std::unique_ptr<SourceHost> host_;
  std::unique_ptr<SourceMemory> memory_;
  ProcessHandle throttle_;  // what slows the workload down; watched while it is valid
  std::unique_ptr<PeerConnection> connection_;
  std::optional<TlsUsed> tls_used_;  // of the newest connection
  std::optional<PreparePayload> prepare_;
  bool began_ = false;  // the destination has been asked once
  std::optional<std::string> images_;  // IMAGES, encoded
  PreparedPayload prepared_;
  handover::PeerPath path_;  // of redirected packets: without a tunnel known from PREPARED on
  std::string destination_report_;
  std::optional<Timestamp> thawed_seen_at_;
  std::optional<int64_t> thawed_there_us_;  // by the destination's clock
  // The last failure after the commit, of an action or told by the destination.
  struct Trouble {
    std::optional<plan::SourceActionKind> kind;
    std::string reason;
  };
  std::optional<Trouble> trouble_;
  EventLoop::TimerId retry_timer_ = 0, standby_timer_ = 0;
  RecordWatch record_watch_{context_.core.loop, context_.core.journal_dir};
  bool retry_waits_ = false;
  bool standby_awaited_ = false;  // STANDBY is out
  std::shared_ptr<const ImageFiles> standby_images_;  // what it carried, as the destination has it
  std::string standby_problem_;
  double nanoseconds_per_byte_ = 0;  // of the last round

  StepDriver<Machine> driver_;
  // Last, so that they end first: their jobs use everything above.
  Lane criu_lane_, memory_lane_, journal_lane_, peer_lane_;
};

}  // namespace mose::agent
