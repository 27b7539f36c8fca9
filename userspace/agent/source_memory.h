// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "agent/timeline.h"
#include "agent/write_watch.h"
#include "kernel/in_background.h"
#include "model/dirty_source.h"
#include "move/bandwidth.h"
#include "move/channel.h"
#include "move/page_sender.h"
#include "move/page_server.h"
#include "move/urgent_gate.h"
#include "plan/source.h"

namespace mose::agent {

// The memory of a workload that moves away: pre-copy rounds, the final page map, the remaining pages, urgent requests.
//
// Life: the destination's pager connects (attach_bulk, attach_urgent from the loop thread, at any time and again after a
// loss); round() any number of times, final_scan() and push() on the memory lane; serve_frozen() instead of final_scan()
// after a restart of the agent, when the destination asks for everything that is missing. cancel() from any thread.
class SourceMemory {
 public:
  SourceMemory(std::string cgroup, std::unique_ptr<DirtySource> source, const move::StreamId& stream,
               uint64_t bandwidth_bps_max, Timeline& timeline);
  ~SourceMemory();

  // The pager has one, one more to fill in what bulk has lost, and those of connections that died unseen.
  static constexpr size_t kUrgentMax = 8, kUrgentEndingMax = 4 * kUrgentMax;

  // `features`: of the connecting end's HELLO.
  void attach_bulk(move::StreamSocket socket, uint64_t features);
  // Beyond kUrgentMax the oldest is closed: the destination has given it up, or asks for more than it needs.
  void attach_urgent(move::StreamSocket socket);
  // In its place: the other end hears why there is nothing for it.
  void turn_away(move::StreamSocket socket, const std::string& reason);

  // Waits for the pager's BULK connection, bounded. The final scan is prepared in a closing one, and early by what is known here.
  [[nodiscard]] Result<plan::RoundStats> round(plan::RoundAhead ahead, bool closing);
  // The tree has just been frozen, nobody has touched it. No round is under way. From any thread.
  [[nodiscard]] Status tree_stopped();
  // The exact rest, of the frozen tree; PAGE_MAP is out when it returns.
  [[nodiscard]] Result<plan::FinalStats> final_scan();
  // What PAGE_MAP called remote. A broken connection is no failure: the pager asks for the rest. `tell` is called once,
  // on this thread, as soon as the peer's kernel has all but `pages_left_max` of them. From then on until committed() it is
  // background work: nobody waits for the rest, and both ends have better to do. Unless a standby stands there, and it may have
  // them all in time (kFreshTime).
  void push(std::optional<uint64_t> pages_left_max, bool standby, const std::function<void(uint64_t pages_left)>& tell);
  // The workload runs there, or is about to. From any thread.
  void committed();
  // The tree is frozen and known: answer urgent requests from it.
  [[nodiscard]] Status serve_frozen();
  // A pager of the destination has a connection here whose end was not seen: its node may be alive.
  [[nodiscard]] bool has_pager() const;
  // Takes the tracking off a workload that runs on; never while it is frozen. On the memory lane.
  void end_tracking();
  // Ends everything under way and later calls with ECANCELED.
  void cancel();

  // Compares what was scanned with what CRIU will register: every present page must lie in an area of its space, and of
  // the pages with contents in an area none may lie where the scan has not looked. Anything else would never arrive, or
  // become a zero page. After final_scan(), before the frozen tree is let go.
  [[nodiscard]] Status check_areas(const std::map<SpaceId, PageSet>& areas) const;

  struct Totals {
    uint64_t rounds = 0, pages = 0, bytes = 0;      // pre-copy
    uint64_t remote_pages = 0, present_pages = 0;   // of the final map
    uint64_t bytes_sent = 0;                        // everything
    double scan_ms = 0;
    uint64_t link_bps = 0;  // what the link has carried; 0: not known
    move::StreamStats stream;
    Nanoseconds capped{0};
  };
  [[nodiscard]] Totals totals() const;
  // How changed pages were found, and why so.
  struct Tracking {
    std::string source = "none", reason = "no memory was scanned";
  };
  [[nodiscard]] Tracking tracking() const;
  [[nodiscard]] const WriteWatch& writes() const { return writes_; }

 private:
  [[nodiscard]] Result<move::Channel*> bulk();
  struct Urgent {
    std::shared_ptr<move::Channel> channel;
    std::shared_ptr<std::atomic<bool>> ended = std::make_shared<std::atomic<bool>>(false);
    std::jthread server;  // once the tree is frozen
    bool closed = false;  // and still to end
  };
  void push_in_background();
  void serve(move::Channel& channel);
  void begin_serving(Urgent& urgent);
  void start_waiting_servers();
  [[nodiscard]] Status send_heat(move::PageSender& sender);
  [[nodiscard]] Status check_scanned(SpaceId space, const PageSet& area) const;
  uint64_t note_link(const move::SendStats& sent, size_t waiting_before, size_t waiting_after);

  const std::string cgroup_;
  std::unique_ptr<DirtySource> source_;
  const move::StreamId stream_;
  move::Bandwidth bandwidth_;
  move::PageEncoder encoder_;
  Timeline& timeline_;
  std::stop_source stop_;
  move::UrgentGate gate_;
  std::atomic<bool> peer_takes_heat_{false};
  bool left_unprotected_ = false;  // pages, in the round before

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::unique_ptr<move::Channel> bulk_;
  std::list<Urgent> urgent_;  // the oldest first
  std::deque<move::Channel> turned_away_;  // of the loop thread
  std::shared_ptr<move::PageServer> server_;  // once the tree is frozen
  std::vector<SpaceProcess> frozen_;
  WriteWatch writes_;
  FinalPages final_;
  std::map<SpaceId, PageSet> scanned_;  // what was looked at for final_
  Totals totals_;
  bool committed_ = false;
  std::optional<InBackground> background_;  // of the push
  uint64_t link_seen_bytes_ = 0;  // what totals_.link_bps was seen with
  Tracking tracking_;
};

}  // namespace mose::agent
