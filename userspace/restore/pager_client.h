// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "kernel/process.h"
#include "model/page_wait.h"
#include "restore/guardian_file.h"
#include "restore/stale_pages.h"

namespace mose::restore {

// mosed's side of the pager process: how to start one, and the connection to it (include/mose/control/pager.proto).
//
// Life: launch_pager() at PREPARE; PagerClient::connect() (ENOENT and ECONNREFUSED until it listens: try again); poll fd() for
// input(), and for output when wants_write(); on an error of on_ready() drop the client and connect again. Neither the
// client's nor mosed's end ends the pager: only quit() does. When the pager has died (its ProcessHandle, or a connection that
// is refused) while pages were missing, its guardian still holds everything: launch_pager() with `adopt`.
inline constexpr uint32_t kPagerFrameMax = 1u << 20;   // no message carries page contents, and no list is longer than kDiscardPagesMax
inline constexpr size_t kPagerOutputMax = 2u << 20;    // requests waiting to be written: more means the pager hangs

// Pages of a standby that were written since and are still at the source: so many are asked for at once at the switchover and
// waited for. More come with the rest.
inline constexpr uint64_t kStandbyRemoteMax = 1024;
// So many are taken out of it instead, where mosed can and waiting would take too long: fewer cost more to drop than to wait for,
// more take longer than another restore.
inline constexpr uint64_t kDiscardPagesMin = 256, kDiscardPagesMax = 32768;

enum class PagerPhase : uint8_t { unknown, listening, restoring, fencing, fenced, running, complete, failed };
[[nodiscard]] const char* to_string(PagerPhase phase);

struct PagerProgress {
  uint32_t spaces = 0;
  uint64_t present_pages = 0, installed_pages = 0, remote_left = 0, unregistered_pages = 0;
  uint64_t faults = 0, zero_faults = 0, remote_faults = 0;
  uint64_t fault_p50_us = 0, fault_p99_us = 0, fault_max_us = 0;
  uint64_t bytes_received = 0;
  uint64_t fork_events = 0, remap_events = 0, remove_events = 0;
  int64_t first_fault_us = 0, complete_us = 0;  // CLOCK_MONOTONIC, 0: not yet
  bool filled = false;                          // every page of the final map is in
  PageWaits waits;                              // told while one of them lasts, and once when that is over
  SourceTrouble trouble;                        // likewise
};

// See StandbyStatus in pager.proto.
struct PagerStandby {
  bool standby = false, staged = false, refreshed = false;
  uint64_t staged_pages = 0, restaged_pages = 0, stale_pages = 0, zeroed_pages = 0, remote_pages = 0, discarded_pages = 0;
  int64_t staged_us = 0, sealed_us = 0, refreshed_us = 0;
  std::string refusal;
};

// What the pager has said last, all together. Every report changes it, so that the caller may also just look at this.
struct PagerStatus {
  PagerPhase phase = PagerPhase::unknown;
  bool sealed = false;   // the final page map has arrived
  bool adopted = false;
  uint32_t guardian_pid = 0;
  uint64_t guardian_start_time = 0;
  std::string reason;    // of `failed`
  PagerProgress progress;
  PagerStandby standby;
  std::vector<StalePages> stale;  // to be taken out of the standby now; answered by PagerClient::discarded()
};

enum class PagerEventKind : uint8_t {
  status, listening, sealed, restored, progress, complete, failed, staged, refreshed, stale
};
struct PagerEvent {
  PagerEventKind kind = PagerEventKind::status;
  std::string reason;  // of failed
  bool operator==(const PagerEvent&) const = default;
};

class PagerClient {
 public:
  // Does not block: a unix socket connects at once or fails.
  [[nodiscard]] static Result<PagerClient> connect(const std::string& socket_path);

  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] bool wants_write() const { return !output_.empty(); }
  // Call when fd() is readable or writable. Reads what is there, writes what waits, and gives the events in order. An
  // error means that the connection is gone.
  [[nodiscard]] Result<std::vector<PagerEvent>> on_ready();
  [[nodiscard]] const PagerStatus& status() const { return seen_; }

  // Queued and, where possible, written at once.
  [[nodiscard]] Status ask_status();
  [[nodiscard]] Status thawed();
  // What CRIU restores next is a standby: wait for status().standby.standby, or .refusal, before starting it.
  // `discards`: we take stale pages out of it when asked to (status().stale).
  [[nodiscard]] Status standby(bool discards);
  // The switchover waits for nothing but the pages of the standby.
  [[nodiscard]] Status pages_awaited();
  // All of them, but for these.
  [[nodiscard]] Status discarded(const std::vector<StalePages>& kept);
  // Its processes are killed: wait for `listening` before the next CRIU is started, in `images_dir` or where it was.
  [[nodiscard]] Status standby_dropped(const std::string& images_dir = "");
  // See Quit in pager.proto.
  [[nodiscard]] Status quit(bool tree_is_dead);

 private:
  explicit PagerClient(Fd socket) : socket_(std::move(socket)) {}
  [[nodiscard]] Status queue(const std::string& payload);
  [[nodiscard]] Status flush();
  [[nodiscard]] Result<PagerEvent> apply(const std::string& payload);

  Fd socket_;
  std::string input_, output_;
  PagerStatus seen_;
};

struct PagerLaunch {
  std::string id;            // hex of the migration
  uint32_t epoch = 1;
  std::string source;        // HOST:PORT of the source's page server
  std::string token;         // hex
  std::string node;          // our name, peer_node the name the source must have
  std::string peer_node;
  std::string images_dir;    // where CRIU will look for lazy-pages.socket (its work directory)
  std::string socket;        // where the pager listens for mosed
  std::string cgroup;        // the workload's cgroup: the fence
  uint64_t store_bytes_max = 0;  // of the page store; 0: what is there
  uint64_t reserve_bytes = 0;    // of it that will be needed, as far as known
  std::string certificate, key, authorities, revoked;  // for TLS with the source; empty: plain text, no list
  std::string log;           // file for stderr (appended), empty: ours
  uint32_t adopt = 0;        // pid of the guardian of a pager that died
};
// Starts mose-pager in a session of its own. It has no parent-death signal: it survives us.
// Whom to adopt when it dies is in <socket>.guardian: read_guardian_file().
[[nodiscard]] Result<ProcessHandle> launch_pager(const PagerLaunch& launch);

}  // namespace mose::restore
