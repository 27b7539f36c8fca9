// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/config.h"
#include "agent/left_network.h"
#include "agent/node_uplink.h"
#include "agent/throttle.h"
#include "agent/timeline.h"
#include "agent/wire_messages.h"
#include "handover/hold_queue.h"
#include "handover/workload_network.h"
#include "kernel/cgroup.h"
#include "kernel/listen_queues.h"
#include "kernel/process.h"
#include "model/dirty_source.h"
#include "restore/swrk.h"

namespace mose::agent {

// What the source's actions do to this host: network, cgroup and CRIU of one workload that moves away. Blocking; every
// function is called from the migration's one CRIU lane (its thread outlives CRIU), except break_dump.
//
// Life: inspect() -> arm_dump() -> quiesce() -> freeze() -> dump() -> finish_dump() -> redirect() -> kill_tree() -> release(), or
// resume() at any moment before the commit. adopt() instead of inspect() after a restart of the agent.
class SourceHost {
 public:
  SourceHost(const Config& config, NodeUplink& uplink, std::shared_ptr<const restore::CriuSetup> criu,
             WorkloadSpec spec, std::shared_ptr<const ProcessHandle> init, const MigrationId& id, std::string peer,
             Timeline& timeline);
  ~SourceHost();

  // Reads everything that PREPARE says of the workload; changes nothing. Refuses what cannot be moved.
  [[nodiscard]] Result<PreparePayload> inspect();
  [[nodiscard]] Status adopt();
  // False once all of the workload has ended: then there is nothing to resume, redirect or kill.
  [[nodiscard]] bool tree_alive() const;

  // A dump like that of the switchover, after which the workload runs again. Without images there is no standby; a tree that
  // could not be resumed is another matter.
  struct StandbyDump {
    Result<ImagesPayload> images;
    Status resumed;
    Timestamp clocks_read;  // not later than CRIU read the workload's clocks
  };
  [[nodiscard]] StandbyDump dump_for_standby();

  // The workload is slowed down until quiesce() or resume(). A handle of what does it: when that ends by itself, call
  // throttle_died(), or the workload may stand still.
  [[nodiscard]] Result<ProcessHandle> slow_down(unsigned percent);
  void throttle_died();

  // CRIU started and asked; it waits in its pre-dump hook, the workload runs. Takes some 40 ms of a processor.
  [[nodiscard]] Status prepare_dump();
  // The same unless it has been done, and new connections wait in the hold queue.
  [[nodiscard]] Status arm_dump();
  // Ends the CRIU of one that was prepared and that nobody has gone on with.
  void give_up_dump() { set_dump({}); }
  // The workload runs at full speed, and what slowed it down has gone. Then until nothing waits in its listen queues, at
  // most for a bound. Fails when connections stay that nobody accepts: they cannot be moved and would be reset.
  [[nodiscard]] Status quiesce();
  // Ingress held, then the cgroup frozen, with no process between vfork() and exec.
  [[nodiscard]] Status freeze();
  // Until post-dump: egress shut, cgroup frozen again, images complete with the pages that are never lazy.
  [[nodiscard]] Result<ImagesPayload> dump();
  // CRIU lets go; the tree is stopped and frozen by its cgroup alone.
  [[nodiscard]] Status finish_dump();
  // Any thread: makes a CRIU under way give up, so that a lane that waits for it goes on. Never a kill: that would damage
  // the workload.
  void break_dump();

  // Undoes all of the above; idempotent, also after a restart of the agent.
  [[nodiscard]] Status resume();

  // Held packets to the peer in order, then redirect; at XDP as well where the uplink has it and `layer` allows it.
  [[nodiscard]] Status redirect(const handover::PeerPath& peer, SteerLayer layer);
  // After it: what goes on being redirected costs less. Waits for a grace period of the kernel (some 10 ms), for which nothing
  // else must wait.
  void settle_redirection();
  // The tree dies with its sockets in repair mode: no FIN, no RST.
  [[nodiscard]] Status kill_tree();
  // The cgroup goes, and the network, after which no straggler is redirected; where they go by a tunnel it stays.
  [[nodiscard]] Status release();

  // The areas that CRIU registers with the userfaultfd, per address space; valid after dump().
  [[nodiscard]] std::map<SpaceId, PageSet> lazy_areas() const;
  [[nodiscard]] const std::string& cgroup_path() const { return cgroup_.path(); }
  // As they were when the last step that moves packets ended. Any thread.
  [[nodiscard]] PacketCounts packets() const;
  // For how long it stood still because of slow_down(), once that is over; nothing: it cannot be said. Any thread.
  [[nodiscard]] std::optional<Nanoseconds> throttled() const;
  // Stragglers are, or were, redirected at XDP. Any thread.
  [[nodiscard]] bool at_xdp() const { return at_xdp_; }

 private:
  [[nodiscard]] Status open_network();
  [[nodiscard]] Status check_uplink() const;
  [[nodiscard]] Status adopt_queue();
  [[nodiscard]] Result<bool> has_segments() const;
  [[nodiscard]] Result<restore::Swrk::DumpRequest> start_dump();
  [[nodiscard]] Status ask_dump(const restore::Swrk::DumpRequest& request);
  [[nodiscard]] Status wait_hook(const std::string& name, const std::string& phase);
  [[nodiscard]] Status full_speed();
  [[nodiscard]] Status note_stopped();
  [[nodiscard]] Status wait_for_borrowed() const;
  [[nodiscard]] Status check_untraced();
  void tell_mappings();
  [[nodiscard]] Status dump_tree();
  [[nodiscard]] Status freeze_outside_vfork();
  [[nodiscard]] Status wait_for_passed_frames();
  [[nodiscard]] Status at_post_dump();
  [[nodiscard]] Status resume_tree();
  [[nodiscard]] Status repair_sockets() const;
  [[nodiscard]] Result<ImagesPayload> complete_images();
  void set_dump(std::optional<restore::Swrk> swrk);
  void count_packets();
  void redirect_at_uplink(const handover::PeerPath& peer);
  [[nodiscard]] Status release_network();
  [[nodiscard]] Status remove_rest(LeftNetwork network);

  const Config& config_;
  NodeUplink& uplink_;
  std::shared_ptr<const restore::CriuSetup> criu_;
  WorkloadSpec spec_;
  std::shared_ptr<const ProcessHandle> init_;
  MigrationId id_;
  std::string peer_;
  Timeline& timeline_;
  Cgroup cgroup_;
  Throttle throttle_{cgroup_};
  bool dump_ready_ = false;  // by prepare_dump()
  bool may_be_held_ = true;  // not between inspect() and arm_dump(): slowing it down is all that was done to it
  Fd netns_, images_dir_;
  std::optional<handover::WorkloadNetwork> network_;
  std::optional<handover::HoldQueue> ingress_queue_;
  std::optional<ListenQueues> listen_queues_;
  std::optional<handover::SteerCounters> before_;  // ingress, when anything was held first
  std::optional<handover::Tunnel> tunnel_;         // by which packets are redirected
  std::atomic<bool> at_xdp_ = false;
  uint64_t xdp_before_ = 0;            // redirected at XDP before this migration
  std::set<pid_t> stopped_before_;     // processes that a signal had stopped before the dump
  std::set<pid_t> debuggers_;          // who traced the tree when CRIU did not yet
  std::optional<restore::Swrk> swrk_;
  std::mutex dump_mutex_;              // guards dump_breaker_
  restore::Swrk::Breaker dump_breaker_;  // of swrk_, for break_dump
  bool ipc_dumped_ = false;        // with System V segments in it
  Nanoseconds egress_open_for_{};  // from before CRIU read the first socket until nothing of the tree goes out any more
  mutable std::mutex results_mutex_;   // guards what other threads read
  std::map<SpaceId, PageSet> lazy_areas_;
  PacketCounts packets_;
  std::optional<Nanoseconds> throttled_;
};

}  // namespace mose::agent
