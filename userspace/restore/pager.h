// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "model/page_provider.h"
#include "restore/latency.h"
#include "restore/pager_state.h"

namespace mose::restore {

// Serves the restored tree's memory: faults first, everything else in the background.
//
// Life: start() with a state that is new or adopted; add_task() for each userfaultfd that CRIU hands over;
// restore_ended() when all of memory is registered; running() after the thaw; when every page of every space is in,
// unmapped, or without a process, the userfaultfds are closed and on_complete is called. stop() ends the threads and
// leaves every descriptor open: what is missing then stays missing, and who touches it waits, until close_all() or a
// second pager.
//
// Order of truths for a page of a served space: a page without a "missing" bit is a zero page if somebody faults on it
// (never there, or removed since); a missing page comes from the provider. Before the provider is sealed nothing is
// answered.
//
// Threads: `servers` read messages and answer faults, one filler, and the provider's own threads in on_local. Each
// space has a lock, held for the reading of a message with its effects, or for one ioctl of the filler. It must be held
// across both: when REMOVE or UNMAP has been read the process goes on and drops its pages, and a copy that was prepared
// before that would bring old contents back. So a fault may wait for one piece of the fill: small while the tree runs,
// and the lock inherits priority and is handed over in order, so that it never waits for a second one.
struct PagerPolicy {
  bool fill_before_resume = true;
  uint64_t piece_before = 16;  // pages per ioctl before the thaw: each holds a lock that CRIU needs, too
  uint64_t piece_after = 32;   // and while it runs: 128 KiB take about 30 us
  uint64_t fault_around = 16;  // pages answered with a fault whose contents are here
  uint64_t remote_around = 8;  // pages asked for with a fault whose contents are not
  uint64_t zero_around = 4;    // pages given to a write into fresh memory
  unsigned servers = 1;        // one answers about 100 000 faults/s; each space belongs to one
  bool realtime = true;        // servers run before everything else where this is allowed
};

struct PagerStats {
  uint32_t spaces = 0;
  uint64_t present_pages = 0, installed_pages = 0, unregistered_pages = 0;
  uint64_t faults = 0, zero_faults = 0, remote_faults = 0;
  uint64_t fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;  // from reading the message to the page being in
  uint64_t fork_events = 0, remap_events = 0, remove_events = 0;
  int64_t first_fault_us = 0, complete_us = 0;
};

class Pager {
 public:
  struct Callbacks {
    std::function<void()> on_complete;      // from a thread of the pager, once
    std::function<void(Error)> on_failure;  // something is wrong that no retry cures; service goes on where it can
  };
  // `state` and `provider` must outlive the pager. Userfaultfds of an adopted state must be open under their numbers.
  [[nodiscard]] static Result<std::unique_ptr<Pager>> start(PagerState& state, PageProvider& provider,
                                                            PagerPolicy policy, Callbacks callbacks);
  ~Pager();
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;

  // Takes the userfaultfd into custody and serves it.
  [[nodiscard]] Status add_task(SpaceId source, Fd uffd);
  // The provider has been sealed: faults that wait for it are answered now (else within a millisecond).
  void notice_sealed();
  // From now on a present page that no userfaultfd covers is an error, and completion is possible.
  void restore_ended();
  // Nothing is answered or filled between these two: the fence is being raised.
  void pause();
  void resume();
  // The tree runs: small pieces.
  void running();

  [[nodiscard]] bool complete() const { return complete_.load(std::memory_order_acquire); }
  [[nodiscard]] PagerStats stats() const;
  void stop();
  // After stop(), for a dead tree: closes every userfaultfd.
  void close_all();

 private:
  struct Space;
  struct Server;
  struct Waiting;
  enum class Answer : uint8_t { done, again, remote, not_yet };
  struct Request {
    SpaceId source;
    PageRun run;
  };
  struct Piece {
    uint32_t space;
    PageRun source;
  };

  Pager(PagerState& state, PageProvider& provider, PagerPolicy policy, Callbacks callbacks);
  [[nodiscard]] Status adopt_spaces();
  [[nodiscard]] Status serve_space(uint32_t index);
  [[nodiscard]] Status serve_next(uint32_t index);
  [[nodiscard]] Space* space(uint32_t index) const;
  [[nodiscard]] uint32_t space_count() const { return space_count_.load(std::memory_order_acquire); }
  void fail_once(Error error);
  void drop(Space& space);

  // pager_serve.cpp
  void server_main(Server& server);
  bool look_again(Server& server, bool all);
  void read_messages(Server& server, Space& space);
  void retry_waiting(Space& space, std::vector<Request>& requests);
  void keep_waiting(Space& space, const Waiting& fault);
  void take_fault(Space& space, const UffdEvent& event, std::vector<Request>& requests);
  [[nodiscard]] Answer answer(Space& space, Waiting& fault, std::vector<Request>& requests);
  [[nodiscard]] Answer answer_zero(Space& space, const Waiting& fault);
  [[nodiscard]] Answer answer_local(Space& space, const Waiting& fault, const PagerState::Missing& missing);
  void apply_event(Space& space, const UffdEvent& event);
  [[nodiscard]] bool know_pages(Space& space);
  void installed(Space& space, PageRun run);
  void ask(const std::vector<Request>& requests);
  void arrived(SpaceId source, PageRun run);
  void wake_servers();

  // pager_fill.cpp
  void filler_main();
  [[nodiscard]] bool fill_allowed() const;
  bool plan_new_spaces();
  void take_arrivals();
  bool fill_piece(const Piece& piece);
  enum class FillStep : uint8_t { went_on, finished, later };
  [[nodiscard]] FillStep fill_step(Space& space, PageRun& rest);
  [[nodiscard]] FillStep fill_ended(Space& space, const UffdInstall& result, PageRun& rest);
  void complete_if_done();
  void wake_filler();

  PagerState& state_;
  PageProvider& provider_;
  const PagerPolicy policy_;
  Callbacks callbacks_;

  // Only grows; a slot is published by the count.
  std::array<std::unique_ptr<Space>, kStateSpacesMax> spaces_;
  std::atomic<uint32_t> space_count_{0};
  std::mutex grow_;

  std::vector<std::unique_ptr<Server>> servers_;
  std::thread filler_;
  std::mutex fill_mutex_;
  std::condition_variable fill_wake_;
  bool fill_woken_ = false;
  std::vector<std::pair<SpaceId, PageRun>> arrivals_;  // under fill_mutex_
  std::deque<Piece> pieces_;                           // the filler's own
  std::vector<Piece> deferred_;                        // not registered yet

  // The provider may be in a call of the listener when it is taken away: calls hold this shared, stop() alone.
  struct Door {
    std::shared_mutex mutex;
    Pager* pager;
  };
  std::shared_ptr<Door> door_;

  std::atomic<bool> stop_{false};
  std::atomic<bool> paused_{false};
  std::atomic<bool> running_{false};
  std::atomic<bool> restore_ended_{false};
  std::atomic<bool> complete_{false};
  std::atomic<bool> failed_{false};
  std::atomic<int> urgent_{0};  // servers with a message in hand
  std::atomic<uint64_t> unregistered_{0};
  std::atomic<int64_t> complete_us_{0};
  LatencyHistogram latency_;
};

}  // namespace mose::restore
