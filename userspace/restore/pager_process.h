// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/cgroup.h"
#include "model/page_provider.h"
#include "restore/guardian.h"
#include "restore/lazy_socket.h"
#include "restore/pager.h"
#include "restore/pager_server.h"

namespace mose::restore {

// What mose-pager is around the pager: CRIU's socket, the fence, mosed's socket, the guardian, and the way out.
//
// The fence: mosed freezes the workload's cgroup in CRIU's pre-resume hook. When CRIU's stream ends, for whatever reason,
// the pager asks for the freeze as well and answers no fault until the kernel says frozen; only mosed thaws. So neither a
// dead mosed nor a dead CRIU lets a half-decided tree run on. Not earlier: CRIU runs system calls in the tasks until then.
//
// A standby that is dropped takes back what CRIU's connection has brought about: phase, fence, and a failure of its own.
//
// Life: start(), run() until mosed says Quit (or kLingerMax after completion). Leaving without completion keeps the tree
// frozen and waits until the cgroup holds no process, unless mosed vouches for its death.
inline constexpr Nanoseconds kLingerMax = std::chrono::hours(1);      // complete, and nobody asks for the report
inline constexpr Nanoseconds kFenceBound = std::chrono::seconds(10);  // until a fence that does not close is a failure
inline constexpr Nanoseconds kProgressEvery = std::chrono::milliseconds(100);

struct PagerProcessOptions {
  std::string images_dir;  // of an adopted pager: for the restore after a dropped standby
  std::string socket;
  std::string cgroup;
  bool adopted = false;
  PagerPolicy policy;
  struct Source {
    uint64_t bytes_received = 0;
    uint64_t remote_left = 0;
    SourceTrouble trouble;
  };
  std::function<Source()> source;           // from any thread
  std::function<void()> on_pages_complete;  // the provider has served its purpose; in the loop's thread
};

class PagerProcess {
 public:
  // `guardian` was started by the caller while the process was small. `state` and `provider` outlive it.
  [[nodiscard]] static Result<std::unique_ptr<PagerProcess>> start(PagerProcessOptions options, PagerState& state,
                                                                   PageProvider& provider, Guardian guardian);
  ~PagerProcess();
  PagerProcess(const PagerProcess&) = delete;
  PagerProcess& operator=(const PagerProcess&) = delete;

  // From any thread: the final map is in; the provider has failed for good.
  void notice_sealed();
  void fail(const Error& error);
  // Returns when the process should end. No descriptor is left whose closing could matter.
  void run();

 private:
  PagerProcess(PagerProcessOptions options, PagerState& state, PageProvider& provider, Guardian guardian);
  [[nodiscard]] Status set_up();
  [[nodiscard]] Status watch(int fd, uint32_t events);
  [[nodiscard]] PagerStatus status() const;
  void set_phase(PagerPhase phase);
  [[nodiscard]] PagerPhase phase() const;
  void wake();

  // A failure of this restore, which a dropped standby takes with it.
  void fail_here(const Error& error);
  void fail_as(const Error& error, bool for_good);
  [[nodiscard]] Status begin_standby();
  void check_standby();
  void standby_gone();
  void refuse(std::string reason);
  [[nodiscard]] Result<SpaceMemory> open_memory(SpaceId space) const;
  [[nodiscard]] Result<SharedMemory> open_shared() const;

  void lazy_ready();
  [[nodiscard]] PagerPhase adopted_phase();
  void raise_fence();
  void check_fence();
  void restore_failed(const std::string& reason);
  void check_requests();
  void check_guardian();
  void write_guardian_file();
  void completed();
  void leave();
  [[nodiscard]] bool tree_gone() const;
  [[nodiscard]] Nanoseconds next_timeout() const;

  PagerProcessOptions options_;
  PagerState& state_;
  PageProvider& provider_;
  Guardian guardian_;
  Cgroup cgroup_;
  Fd cgroup_events_;
  Fd epoll_;
  Fd wake_;
  std::optional<LazySocket> lazy_;
  std::unique_ptr<Pager> pager_;
  std::unique_ptr<PagerServer> server_;
  std::atomic<PagerServer*> server_now_{nullptr};

  mutable std::mutex mutex_;
  PagerPhase phase_ = PagerPhase::listening;
  std::string reason_;
  uint32_t guardian_pid_ = 0;
  uint64_t guardian_start_ = 0;

  std::atomic<bool> sealed_{false}, complete_{false}, thawed_{false}, quit_{false}, tree_is_dead_{false};
  std::atomic<bool> failed_{false}, failed_for_good_{false};
  std::atomic<bool> standby_asked_{false}, discards_{false}, drop_asked_{false}, dropped_{false};
  std::string next_images_dir_, refusal_;  // under mutex_
  bool sealed_told_ = false, failed_told_ = false, finished_ = false, done_ = false;
  bool let_in_ = false;    // the fence is closed, the pager works again
  bool dropping_ = false;  // a standby: nothing that is still said of it counts
  Timestamp fence_since_{}, complete_since_{}, progress_at_{};
  uint64_t progress_told_ = ~uint64_t{0};
  bool stall_told_ = false;
};

}  // namespace mose::restore
