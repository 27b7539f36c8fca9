// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"
#include "model/page_provider.h"
#include "model/page_wait.h"
#include "restore/arrivals.h"
#include "restore/latency.h"
#include "restore/pager_state.h"
#include "restore/shared_memory.h"
#include "restore/stale_pages.h"

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
// A standby (pager_standby.cpp): a tree that CRIU restores and nobody lets run, from images older than the final ones.
// standby() comes before its first userfaultfd and before the provider is sealed. Faults of the restore are answered with
// what the provider has; once the restore has ended and its fence is closed ("staging") the pages that the provider has
// are put in, and put in again when later rounds bring them again. The seal says what has become of every page that was
// touched so: final and in, or stale. Stale ones are written over through /proc/PID/mem, which works on pages that are
// present, those that have become zero pages too; then the tree is `refreshed` and may run, with what was never touched
// served as ever. Pages that were touched before the fence are stale without a look, because the restorer and the kernel
// write to memory that is present. Until the thaw the standby may be dropped, and everything is as before it came.
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
  uint64_t piece_staged = 128; // into a standby: as much as the seal may have to wait for
  uint64_t fault_around = 16;  // pages answered with a fault whose contents are here
  uint64_t remote_around = 7;  // pages asked for behind one whose contents are not, where round trips take longer than
  Nanoseconds remote_far = std::chrono::microseconds(400);  // this, which is about what they take at 1 Gbit/s
  uint64_t remote_ahead_max = 15;                           // and behind one in a row of such, anywhere
  Nanoseconds fresh_look = std::chrono::milliseconds(60);   // how fast a standby's last pages come is judged after that,
  Nanoseconds awaited_look = std::chrono::milliseconds(10); // and while nothing else is waited for after this; where none comes
  Nanoseconds awaited_none = std::chrono::milliseconds(40); // they are given up after that
  uint64_t zero_around = 4;    // pages given to a write into fresh memory
  unsigned servers = 1;        // one answers about 100 000 faults/s; each space belongs to one
  bool realtime = true;        // servers run before everything else where this is allowed
};

// The process of a space: for process_vm_writev(), which costs half, and /proc/PID/mem (read and write), which cannot reach
// another process and writes where the process itself must not.
struct SpaceMemory {
  ProcessHandle process;
  Fd memory;
};

struct PagerStats {
  uint32_t spaces = 0;
  uint64_t present_pages = 0, installed_pages = 0, unregistered_pages = 0;
  uint64_t faults = 0, zero_faults = 0, remote_faults = 0;
  uint64_t fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;  // from reading the message to the page being in
  uint64_t fork_events = 0, remap_events = 0, remove_events = 0;
  int64_t first_fault_us = 0, complete_us = 0;
  bool filled = false;  // every page of the map is in
  PageWaits waits;      // while the tree runs
  struct Standby {
    bool standby = false, staged = false, refreshed = false;
    uint64_t staged_pages = 0;    // put into the standby before the seal, each counted once
    uint64_t restaged_pages = 0;  // written again before the seal because they came again
    uint64_t stale_pages = 0;     // stale at the seal, of these
    uint64_t zeroed_pages = 0;    // become zero pages, and
    uint64_t remote_pages = 0;    // waited for the source
    uint64_t discarded_pages = 0; // taken out of the standby instead
    int64_t staged_us = 0, sealed_us = 0, refreshed_us = 0;
  } standby;
};

class Pager {
 public:
  struct Callbacks {
    std::function<void()> on_complete;      // from a thread of the pager, once
    std::function<void(Error)> on_failure;  // something is wrong that no retry cures; service goes on where it can
    // Of a standby, from a thread of the pager. Without open_memory there is none.
    std::function<Result<SpaceMemory>(SpaceId)> open_memory = {};
    // What the restored processes share, once the tree is fenced. Without it nothing is shared.
    std::function<Result<SharedMemory>()> open_shared = {};
    std::function<void()> on_staged = {};     // once
    std::function<void()> on_refreshed = {};  // once
    std::function<void()> on_stale = {};      // once, where offered() is to be taken out of the standby
    std::function<void()> on_dropped = {};
    std::function<void()> on_filled = {};  // every page is in; unlike `complete` that may be dropped yet
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
  // The tree runs: small pieces. A standby must be refreshed() before it.
  void running();
  // What comes now is a standby. Before any task and before the seal.
  // `discards`: who asks can take pages out of it, and is asked to by on_stale where it would have to wait for many.
  [[nodiscard]] Status standby(bool discards = false);
  // The switchover waits for nothing but the pages of the standby. Any thread.
  void pages_awaited();
  // What it was asked for is done, but for these. Any thread; nothing happens where nothing was asked.
  void discarded(std::vector<StalePages> kept);
  // What is asked for now.
  [[nodiscard]] std::vector<StalePages> offered() const;
  // The standby is dead, or about to be: when its address spaces have gone, everything of it is forgotten (on_dropped).
  // Nothing happens without a standby.
  void drop_standby();
  [[nodiscard]] bool is_standby() const { return standby_.load(std::memory_order_acquire); }
  [[nodiscard]] bool refreshed() const { return refreshed_; }

  // What the tree's processes share is in; it must not run before. A standby's is so when it is refreshed.
  [[nodiscard]] bool shared_done() const { return shared_done_.load(std::memory_order_acquire); }

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
  void add_waits(uint32_t index, PageWaits& waits) const;
  void fail_once(Error error);
  void drop(Space& space);

  // pager_serve.cpp
  void server_main(Server& server);
  bool look_again(Server& server, bool all);
  void read_messages(Server& server, Space& space);
  void retry_waiting(Space& space, std::vector<Request>& requests);
  void note_remote(Nanoseconds waited);
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

  struct Writes;

  // pager_standby.cpp
  [[nodiscard]] Answer answer_bare(Space& space, const Waiting& fault);
  void settle_standby(Space& space);
  bool standby_work();
  bool plan_staging();
  void stage_next();
  void stage_piece(const Piece& piece, Writes& again);
  [[nodiscard]] bool stage_fresh(Space& space, PageRun& rest);
  [[nodiscard]] bool stage_again(Space& space, PageRun& rest, Writes& again);
  void write_again(Space& space, Writes& again);
  [[nodiscard]] bool stage_no_more() const;
  [[nodiscard]] bool stage_full(const Writes& again) const;
  bool forget_standby();
  [[nodiscard]] Status need_shared();
  [[nodiscard]] Status stage_shared();
  // True: everything that can be done now is done.
  [[nodiscard]] bool finish_shared();

  // pager_refresh.cpp
  bool refresh();
  using StaleParts = std::vector<std::pair<PageRun, PagePlace>>;  // whose contents are here
  using ComeRuns = std::map<SpaceId, std::vector<PageRun>>;
  [[nodiscard]] ComeRuns take_come();
  [[nodiscard]] StaleParts split_stale(Space& space, const ComeRuns& come) const;
  void rewrite_parts(Space& space, const StaleParts& parts);
  [[nodiscard]] Status collect(Space& space, PageRun run, PagePlace place, Writes& writes);
  [[nodiscard]] Status rewrite(Space& space, Writes& writes);
  [[nodiscard]] Status rewrite_doubtful(Space& space, uint64_t page, std::span<const std::byte> bytes);
  [[nodiscard]] Status write_memory(Space& space, Writes& writes);
  [[nodiscard]] Status write_part(Space& space, const iovec& from, const iovec& to);
  [[nodiscard]] Status need_memory(Space& space);

  // pager_discard.cpp
  void settle_remote();
  void judge_remote();
  [[nodiscard]] bool come_too_late(uint64_t left, Timestamp at) const;
  [[nodiscard]] static Nanoseconds table_cost();
  void offer();
  [[nodiscard]] uint64_t stale_left() const;
  void wait_for_all(uint64_t pages);
  void wait_for(Space& space, const PageSet& remote);
  void take_discarded();

  // pager_fill.cpp
  void filler_main();
  [[nodiscard]] bool fill_allowed() const;
  bool plan_new_spaces();
  void take_arrivals();
  bool fill_piece(const Piece& piece);
  enum class FillStep : uint8_t { went_on, finished, later };
  [[nodiscard]] FillStep fill_step(Space& space, PageRun& rest);
  [[nodiscard]] FillStep fill_ended(Space& space, const UffdInstall& result, bool registered, PageRun& rest);
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
  ComeRuns come_;                                      // likewise: of a standby, since refresh() looked last
  std::deque<Piece> pieces_;                           // the filler's own
  std::vector<Piece> deferred_;                        // not registered yet
  std::deque<Piece> to_stage_;                         // the filler's own
  uint64_t news_staged_ = ~uint64_t{0};                // the provider's news at the last plan
  Timestamp stage_again_at_{};
  bool remote_settled_ = false, discards_ = false, offering_ = false;  // of a standby; the filler's own
  Arrivals hoped_;  // pages that are on their way, and may be offered still. The filler's own
  std::optional<Nanoseconds> install_page_;  // at best, by what was staged
  mutable std::mutex offer_mutex_;
  std::vector<StalePages> offered_;                    // under offer_mutex_, and
  std::optional<std::vector<StalePages>> kept_;        // of it: could not be taken out
  std::optional<SharedMemory> shared_;  // the filler's own

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
  std::atomic<bool> standby_{false}, drop_asked_{false}, staged_{false}, refreshed_{false}, filled_{false}, awaited_{false};
  std::atomic<bool> shared_done_{false};
  std::atomic<bool> doubt_{false};  // adopted: what was touched may be in or not
  std::atomic<uint64_t> arrivals_seen_{0};
  std::atomic<uint64_t> staged_pages_{0}, restaged_pages_{0}, stale_pages_{0}, zeroed_pages_{0}, stale_remote_{0}, discarded_pages_{0};
  std::atomic<int64_t> staged_us_{0}, sealed_us_{0}, refreshed_us_{0};
  std::atomic<uint64_t> unregistered_{0};
  std::atomic<int64_t> remote_us_{INT64_MAX};  // what remote faults have waited of late
  std::atomic<int64_t> complete_us_{0};
  LatencyHistogram latency_;
};

}  // namespace mose::restore
