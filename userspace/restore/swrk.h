// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "kernel/launch.h"
#include "kernel/process.h"
#include "restore/criu_setup.h"

namespace mose::restore {

// One `criu swrk` process: started before it is needed (its start costs 10-14 ms, with the workload running), asked for
// one dump or one restore, driven through its hooks, gone.
//
// Life: start -> request_dump or request_restore (once) -> next/answer until Done or Died. Between a hook and its
// answer CRIU waits. Destroying the object ends CRIU: end().
//
// Never SIGKILL a CRIU that is dumping: between the pre-dump and the post-dump hook its code runs inside the workload's
// tasks, and about one kill in three damaged them beyond use (24 kills at 0-9 ms after query-ext-files, 9 broken).
// Break its line instead: it finds that out at its next hook, cleans the tasks up, takes their sockets out of repair
// mode, leaves the cgroup as frozen as it found it, and exits. The same happens when the agent dies, which is why a
// dumping CRIU is not tied to our life. A restoring CRIU is: it dies with the thread that started it, and at nothing
// less than that, for it has a copy of our end. So call start_for_restore from a thread that outlives the restore.
//
// A dead CRIU leaves a tree that it dumps as running as the cgroup's freezer lets it be; a restored tree that it has
// not let go dies with it.
class Swrk {
 public:
  struct Place {
    int net_fd = -1, ipc_fd = -1, uts_fd = -1;  // the workload's; CRIU then dumps none of them
    int time_fd = -1;                           // dump only: the workload's, when it is not our own
    bool skip_memory = true;                    // dump only; false: a full dump, memory in the images
    int cgroup_fd = -1;                         // restore only: the workload's group; restored tasks inherit it
    // Restore only: root and external mounts of the new workload, paths as the agent sees them.
    std::string root;
    bool root_read_only = true;
    struct Mount {
      std::string key, source;
      bool read_only = false;
    };
    std::vector<Mount> mounts;
  };
  [[nodiscard]] static Result<Swrk> start_for_dump(const CriuSetup& setup, const Place& place);
  [[nodiscard]] static Result<Swrk> start_for_restore(const CriuSetup& setup, const Place& place);

  Swrk(Swrk&&) noexcept = default;
  Swrk& operator=(Swrk&&) noexcept;
  ~Swrk();

  struct DumpRequest {
    int images_dir = -1;      // directory on tmpfs; gets images and dump.log. Stays open until Done
    pid_t pid = 0;            // first process of the workload
    std::string cgroup_path;  // its group, frozen before the request or (with a later freeze) in the pre-dump hook
    struct Mount {
      std::string target, key;  // external mounts: mount point in the workload, name in the images
    };
    std::vector<Mount> mounts;
    int log_level = 1;  // errors; 4: everything, costs milliseconds
  };
  struct RestoreRequest {
    int images_dir = -1;  // lazy: "lazy-pages.socket" must be listening in it
    bool lazy_pages = true;
    int log_level = 1;
  };
  [[nodiscard]] Status request_dump(const DumpRequest& request);
  [[nodiscard]] Status request_restore(const RestoreRequest& request);

  // Dump: pre-dump (everything still runs), query-ext-files, post-dump. Restore: pre-restore, setup-namespaces,
  // post-setup-namespaces, post-restore, pre-resume, post-resume. pid only where CRIU gives one.
  struct Hook {
    std::string name;
    pid_t pid = 0;
  };
  // The answer. A restore that worked says which process is the new first one.
  struct Done {
    bool success = false;
    int error = 0;        // errno as CRIU gives it, 0 when it gives none
    std::string message;  // failed: one line, with the last meaningful lines of CRIU's log
    pid_t restored_pid = 0;
  };
  struct Died {
    std::string how;  // "signal 9"
  };
  struct TimedOut {};
  using Event = std::variant<Hook, Done, Died, TimedOut>;

  // Of a dump, before its pre-dump hook is answered: the mappings of the frozen tree, so that CRIU need not read smaps
  // (told_mappings.h). What is not told it reads itself.
  [[nodiscard]] Status tell_mappings(const std::string& table);

  // The next event within `timeout` (0: only what is there). An Error is a protocol violation: kill it.
  [[nodiscard]] Result<Event> next(Nanoseconds timeout);
  // Answers the hook that next() gave last. `ok` false makes CRIU give up: a dump lets the source run on (unless its
  // cgroup is frozen), a restore kills what it made, except from pre-resume on, where the tree runs whatever we say.
  [[nodiscard]] Status answer(bool ok);
  // After Done: waits until the process has gone, so that nothing of CRIU holds the tree any more.
  [[nodiscard]] Status wait_exit(Nanoseconds bound);
  // Ends CRIU, whatever it is doing. A dump under way is broken off and given time to clean up, because a workload
  // may not survive its death: it is killed when it has not moved for kBreakBound, for kStillMax where somebody has stopped it, and after
  // kBreakMost. Everything else is killed at once.
  void end();
  // SIGKILL and reap. Harmless for the workload in a hook of a dump, not between two of them.
  void kill();
  // For other threads: breaks the line of a CRIU whose owner waits in next(), which then returns Died after CRIU has
  // cleaned up (or first a hook that had come before; its answer fails). Valid as long as the caller keeps it, also
  // after the Swrk has gone.
  class Breaker {
   public:
    Breaker() = default;
    explicit Breaker(Fd line) : line_(std::move(line)) {}
    void break_off() const;

   private:
    Fd line_;
  };
  [[nodiscard]] Result<Breaker> breaker() const;

  [[nodiscard]] int fd() const { return socket_.get(); }  // readable when next(0) has something
  [[nodiscard]] const ProcessHandle& process() const { return process_; }

 private:
  enum class Purpose { dump, restore };
  enum class State { idle, asked, in_hook, finished };
  Swrk(Purpose purpose, Fd socket, Fd output, ProcessHandle process)
      : purpose_(purpose), socket_(std::move(socket)), output_(std::move(output)), process_(std::move(process)) {}
  [[nodiscard]] static Result<Swrk> start(const CriuSetup& setup, const Place& place, Purpose purpose);
  [[nodiscard]] Status send(const std::string& bytes);
  [[nodiscard]] Result<std::optional<Event>> receive();
  // Of a dump whose line is broken. ETIMEDOUT: it is still there.
  [[nodiscard]] Result<ProcessHandle::Exit> reap_broken_off();
  [[nodiscard]] std::string explain(int error, const std::string& text) const;

  Purpose purpose_;
  State state_ = State::idle;
  Fd socket_;
  Fd mappings_;  // of a dump: the memory file of the table
  Fd output_;    // memory file with what the process wrote to standard output and error
  ProcessHandle process_;
  Fd images_dir_;     // our duplicate: CRIU opens it through /proc
  std::string root_;  // restore: paths inside CRIU's mount namespace
  std::vector<std::string> externals_;
};

// It waits for a thread of the workload that gets no processor, say, or for a disk.
inline constexpr Nanoseconds kBreakBound{5'000'000'000};
// One that is stopped cleans nothing up; its workload stands still meanwhile.
inline constexpr Nanoseconds kStillMax{2'000'000'000};
inline constexpr Nanoseconds kBreakMost{60'000'000'000};

// The lines of a CRIU log that tell why it failed, at most three, joined by "; ".
[[nodiscard]] std::string meaningful_log_lines(std::string_view log);

}  // namespace mose::restore
