// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "agent/config.h"
#include "agent/node_uplink.h"
#include "agent/timeline.h"
#include "agent/wire_messages.h"
#include "handover/announce.h"
#include "handover/hold_queue.h"
#include "handover/workload_network.h"
#include "kernel/cgroup.h"
#include "kernel/process.h"
#include "restore/pager_client.h"
#include "restore/standby_refresh.h"
#include "restore/standby_warm.h"
#include "restore/swrk.h"

namespace mose::agent {

// What the destination's actions do to this host: namespaces, silent network, fence and CRIU of a workload that arrives.
// Blocking; every function is called from the migration's one CRIU lane (its thread outlives CRIU), except kill_restore, end_warming and hurry.
//
// Life: prepare() -> restore() -> activate() -> settle(); discard() at any moment before the commit. adopt() instead of
// prepare() after a restart of the agent, when the restored tree exists.
class DestinationHost {
 public:
  DestinationHost(const Config& config, NodeUplink& uplink, std::shared_ptr<const restore::CriuSetup> criu, PreparePayload payload,
                  const MigrationId& id, const std::string& peer, Timeline& timeline);
  ~DestinationHost();

  // Checks first, then builds: namespaces, cgroup, network (shut and silent), pager, restore process. On failure nothing
  // is left. The pager listens and CRIU waits when it returns.
  [[nodiscard]] Result<PreparedPayload> prepare();
  [[nodiscard]] Status adopt();

  // From the images to a frozen tree that CRIU has let go of.
  [[nodiscard]] Status restore(const ImagesPayload& images);
  // A warm standby (destination_standby.cpp): restored ahead from an earlier dump, egress shut, and stopped until
  // refresh_standby() makes it what the later images say. Images that came at `received`.
  [[nodiscard]] Status build_standby(std::shared_ptr<const ImagesPayload> images, Timestamp received);
  // So that its processes find at hand what was put into them (restore/standby_warm.h); ends early once end_warming() was called. An
  // error: drop_standby().
  [[nodiscard]] Status warm_standby();
  // And find it so when they run: where that matters it comes back when hurry() was called, or has been before, at end_warming() with many
  // threads. An error: drop_standby().
  [[nodiscard]] Status keep_standby_warm();
  // From any thread. The first: images are on their way. The second, once and for all: somebody waits for the lane.
  void end_warming() { warmed_enough_ = true; }
  void hurry() { warmed_enough_ = hurried_ = true; }
  // Fails when something has changed that cannot be made good: then drop_standby(), and restore() from the start.
  [[nodiscard]] Status refresh_standby(std::shared_ptr<const ImagesPayload> images);
  // Before or after refresh_standby(). Those that are still in it. An error: drop_standby().
  [[nodiscard]] Result<std::vector<restore::StalePages>> discard_stale(const std::vector<restore::StalePages>& pages,
                                                                       const restore::GuardianName& guardian);
  [[nodiscard]] Status drop_standby();
  // False: CRIU was not ready when this was made.
  [[nodiscard]] bool has_criu() const { return criu_ != nullptr; }
  // Any thread: ends a CRIU under way.
  void kill_restore();

  // Thaw, and packets may come and go. Idempotent. Microseconds: the source sends nothing on before it hears of it.
  [[nodiscard]] Status activate();
  // Again, because what it would read is not there.
  [[nodiscard]] Status stop();
  // Right after it: everybody is told, and what was held on the way out leaves in order.
  void release_egress();
  // Every page is in: pager, hold queue and directories go.
  [[nodiscard]] Status settle();
  // One more announcement; the caller's timer decides when.
  void announce();
  // Egress dropped, tree killed, network, cgroup, pager and directories removed; idempotent.
  [[nodiscard]] Status discard();

  // No process of it is left; where that cannot be told: false.
  [[nodiscard]] bool tree_gone() const;
  // How many processes the tree had when CRIU let go of it, and how an agent after us knows: frozen it only loses some.
  [[nodiscard]] size_t processes() const { return processes_; }
  void expect_processes(size_t count) { processes_ = count; }
  // What is missing of it, as a sentence; empty: nothing, or it cannot be told. Of a running one: all or nothing. Any thread.
  [[nodiscard]] std::string missing() const;
  // See Cgroup::watch_events().
  [[nodiscard]] Result<Fd> watch_tree() const;
  // The first process of the restored tree.
  [[nodiscard]] Result<ProcessHandle> init() const;
  [[nodiscard]] const std::string& cgroup_path() const { return cgroup_.path(); }
  // How the pager is started; the same again for one that takes over.
  [[nodiscard]] restore::PagerLaunch pager_launch() const;
  [[nodiscard]] int64_t thawed_us() const { return thawed_us_; }
  // When the workload's first frame left here, by the kernel's stamp in CLOCK_MONOTONIC; none: it has not. On the lane of CRIU.
  [[nodiscard]] std::optional<int64_t> first_out_us() const;
  // Frames that the workload has sent and that never left: no room in the hold queue, or given up. Any thread.
  [[nodiscard]] uint64_t egress_lost() const { return egress_lost_; }

 private:
  [[nodiscard]] Status check();
  [[nodiscard]] Status claim();
  [[nodiscard]] Status take_from_tunnel();
  [[nodiscard]] Status check_address();
  [[nodiscard]] Status check_mtu() const;
  [[nodiscard]] Status check_capabilities(uint64_t permitted) const;
  [[nodiscard]] Status check_devices() const;
  [[nodiscard]] Status check_images(const ImagesPayload& images) const;
  [[nodiscard]] Status adopt_egress_queue();
  [[nodiscard]] Status open_announcer();
  [[nodiscard]] Status start_pager();
  [[nodiscard]] Status end_own_pager();
  [[nodiscard]] std::vector<restore::WarmTarget> warm_targets(const std::vector<restore::StandbyProcess>& tree) const;
  [[nodiscard]] Status start_restore_process();
  // `at_start`: when CRIU has read what it needs to begin, and waits before it makes the first task.
  [[nodiscard]] Status run_restore(Nanoseconds bound, const std::function<Status()>& at_start = {});
  [[nodiscard]] Status store_images(int dir, const ImagesPayload& images);
  [[nodiscard]] Result<std::vector<restore::StandbyProcess>> standby_tree(std::vector<ProcessHandle>& handles) const;
  struct Discard;
  [[nodiscard]] Result<Discard> prepare_discard(const std::vector<restore::StalePages>& pages, const restore::GuardianName& guardian) const;
  [[nodiscard]] Status on_hook(const std::string& name, std::future<Status>& moved);
  [[nodiscard]] std::future<Status> move_out(pid_t criu) const;
  void set_restore(std::optional<restore::Swrk> swrk);
  void end_egress_queue();

  const Config& config_;
  NodeUplink& uplink_;
  std::shared_ptr<const restore::CriuSetup> criu_;
  PreparePayload payload_;
  MigrationId id_;
  std::string peer_;
  Timeline& timeline_;
  Cgroup cgroup_;
  Fd netns_, ipcns_, utsns_, images_dir_;
  restore::ImageSet early_images_;  // what the standby was made from
  std::map<SpaceId, PageSet> standby_areas_;  // of its memory, registered with userfaultfds
  ProcessHandle pager_;
  uint64_t reserve_max_ = 0;  // memory that its page store may take before pages come
  std::optional<handover::WorkloadNetwork> network_;
  std::optional<handover::HoldQueue> egress_queue_;
  // Closing a packet socket takes the kernel a grace period (10 ms): it stays open until the migration is over.
  std::optional<handover::Announcer> announcer_;
  std::optional<restore::Swrk> swrk_;
  std::mutex restore_mutex_;          // guards restore_process_
  ProcessHandle restore_process_;     // of swrk_, for kill_restore
  std::atomic<int64_t> thawed_us_ = 0;  // 0: not by this agent
  std::atomic<uint64_t> egress_lost_ = 0;
  std::atomic<bool> warmed_enough_ = false, hurried_ = false;
  bool warmth_matters_ = false;  // first touches are dear here
  std::atomic<size_t> processes_ = 1;   // at least: of the frozen tree
  bool claimed_ = false;              // the cgroup of that name was empty when we came: what is in it is ours
};

}  // namespace mose::agent
