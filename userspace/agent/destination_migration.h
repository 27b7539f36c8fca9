// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/destination_host.h"
#include "agent/journal.h"
#include "agent/migration_context.h"
#include "agent/pager_link.h"
#include "agent/peer_connection.h"
#include "agent/record_watch.h"
#include "agent/step_driver.h"
#include "agent/timeline.h"
#include "agent/worker.h"
#include "plan/destination.h"

namespace mose::agent {

// One migration at its destination: runs plan/destination.h in the loop thread and carries out its actions on lanes.
//
// All that it does, on every thread, is logged as of this migration: each way into it names it, the loop and the lanes carry that on.
//
// Life: begin() with a PREPARE (or recover() after a restart) -> on_end once -> on_gone, after which the owner destroys
// it. The source's newest connection is given by adopt_connection. All calls in the loop thread.
class DestinationMigration {
 public:
  struct Handlers {
    std::function<void(const MigrationEnd&)> on_end;
    std::function<void()> on_gone;
  };
  DestinationMigration(MigrationContext& context, JournalMeta meta, PreparePayload payload, Handlers handlers);
  ~DestinationMigration();

  void begin(std::unique_ptr<PeerConnection> connection);
  void recover(Journal journal);
  // A later connection of the source, open already; the frame it began with follows by on_frame.
  void adopt_connection(std::unique_ptr<PeerConnection> connection);
  void on_frame(wire::FrameType type, const std::string& payload);
  // Asks the source now, for `mose recover`.
  void ask_now();
  // By its operator's word, while it waits for the verdict: what has arrived is thrown away, and never runs here.
  void give_up();
  [[nodiscard]] bool waits_for_verdict() const { return driver_.state().phase == plan::DestinationPhase::fenced; }
  // The verdict, as far as this side has written it down.
  [[nodiscard]] plan::Verdict heard() const;
  // What `mose recover` has to say of it.
  [[nodiscard]] std::string recover_sentence() const;
  // The workload has ended here, `how` a sentence of it. Where its memory is not complete that is given up: the pager goes once
  // the tree is dead, and the source hears that nothing is needed of it any more.
  void tree_ended(const std::string& how);
  // Its journal goes where nothing of it is left to be decided or answered; else nothing happens.
  void forget_if_over();

  [[nodiscard]] MigrationProgress progress() const;
  [[nodiscard]] MigrationFigures figures() const;
  [[nodiscard]] const JournalMeta& meta() const { return meta_; }
  // Of its end; empty: none is needed.
  [[nodiscard]] const std::string& reason() const { return driver_.state().reason; }
  [[nodiscard]] bool ended() const { return ended_; }
  // It will not run here; what has come of it is being thrown away.
  [[nodiscard]] bool given_up() const {
    return driver_.state().lost || (driver_.state().phase >= plan::DestinationPhase::discarding && !driver_.state().committed);
  }
  // Every page is here; only tidying up is left.
  [[nodiscard]] bool memory_complete() const { return driver_.state().pages_complete; }
  [[nodiscard]] std::string report_json() const;

 private:
  struct Machine {
    using State = plan::DestinationState;
    using Event = plan::DestinationEvent;
    using Step = plan::DestinationStep;
    using Action = plan::DestinationAction;
    static Step step(const State& state, const Event& event, Timestamp t) { return plan::step(state, event, t); }
    static Event tick() { return plan::Tick{}; }
  };

  void execute(const plan::DestinationAction& action);
  void changed();
  void done(plan::DestinationActionKind kind, const Status& status);
  void record(plan::Record record);
  void send(const plan::DestinationAction& action);
  void send_complete();
  void prepare();
  void restore();
  void activate();
  void activated(const plan::DestinationActionDone& end);
  void discard();
  void finish();
  void query_verdict();
  void ask(std::function<void(const Status&)> then);
  void watch_pager();
  void note_arriving();
  // destination_waits.cpp
  void note_waits();
  // Of a workload that runs here before its memory is complete.
  [[nodiscard]] std::optional<MemoryWait> memory_wait() const;
  void restored(const Status& status);
  void restored_if_waiting();
  void lose_pager(const std::string& told, const std::string& reason);  // `told`: to the source
  // destination_standby.cpp
  void make_standby(const std::string& payload);
  void standby_announced(const std::string& refusal);
  void standby_built(const Status& status);
  void standby_staged();
  void keep_standby_warm();
  void drop_standby(const std::string& why);
  void standby_let_go();
  void standby_gone(const Status& status);
  void refresh();
  void refreshed(const Status& status);
  void discard_stale(const std::vector<restore::StalePages>& pages);
  void discarded(const Status& status, const std::vector<restore::StalePages>& kept);
  void await_fresh_memory();
  void judge_stale_memory();
  void without_standby(const std::string& why);
  [[nodiscard]] uint64_t fresh_pages_max() const;
  [[nodiscard]] const restore::PagerStatus& pager_status() const { return pager_ ? pager_->status() : pager_status_; }
  // destination_tree.cpp: from the end of the restore until it is registered.
  static constexpr const char* kNotedProcesses = "processes";  // with ready
  void watch_tree();
  void unwatch_tree();
  void look_at_tree();
  void expect_tree(const Notes& notes);
  [[nodiscard]] Status register_here();
  void release_egress();
  void schedule_announcements();

  MigrationContext& context_;
  OwnPosts post_;
  JournalMeta meta_;
  PreparePayload payload_;
  Handlers handlers_;
  Timeline timeline_;
  Timestamp started_ = now();
  bool ended_ = false;
  bool arrived_ = false;  // the arriving workload in the registry is this migration's
  bool fenced_ = false;    // the pager has seen the end of CRIU and a frozen tree
  bool filled_ = false;    // and has every page in
  bool activating_ = false;  // its lane looks at the tree, and thaws it
  Fd tree_events_;           // watched
  bool restored_ = false;  // the restore action waits for one of these
  // none -> building -> standing -> refreshed, or dropping -> gone.
  enum class Standby : uint8_t { none, building, standing, refreshed, dropping, gone };
  Standby standby_ = Standby::none;
  bool warming_ = false;          // or warmed up: once
  bool staged_ = false;           // the pager has put into the standby what there was
  bool discarding_ = false;       // pages of it are being taken out
  bool memory_fresh_ = false;     // and has replaced what changed since
  bool pager_let_go_ = false, tree_gone_ = false;  // while dropping
  std::shared_ptr<const ImagesPayload> standby_images_;  // until IMAGES, which may differ from them only
  std::shared_ptr<const ImagesPayload> standby_announced_;  // the same, until the pager is ready for them
  Timestamp standby_received_{};
  bool restore_waits_ = false;    // for the standby to stand, or to be gone
  Status standby_failed_;         // it could not even be dropped: no restore is possible here
  std::string standby_problem_;   // why there is none
  bool egress_released_ = false;
  bool finish_waits_ = false, complete_waits_ = false;  // for that
  std::optional<int64_t> first_out_us_;

  std::optional<Journal> journal_;
  std::unique_ptr<DestinationHost> host_;
  std::unique_ptr<PeerConnection> connection_;
  std::optional<TlsUsed> tls_used_;  // of the newest connection
  std::unique_ptr<PagerLink> pager_;
  restore::PagerStatus pager_status_;
  PreparedPayload prepared_;
  std::shared_ptr<const ImagesPayload> images_;  // until they are restored from
  bool recovered_ = false;  // an agent before this one has begun it
  std::optional<Timestamp> thawed_at_, filled_at_;
  RecordWatch record_watch_{context_.core.loop, context_.core.journal_dir};
  std::string trouble_;  // what keeps it from going on, for the operator; empty: nothing
  uint64_t arrived_bytes_ = 0;  // of pages, as the plan has been told
  Timestamp arriving_told_{};
  bool alarm_told_ = false;     // that it waits for pages
  std::vector<EventLoop::TimerId> timers_;

  StepDriver<Machine> driver_;
  Lane criu_lane_, journal_lane_, peer_lane_;
};

}  // namespace mose::agent
