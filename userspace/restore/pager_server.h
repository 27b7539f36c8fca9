// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "restore/pager_client.h"

namespace mose::restore {

// The pager's side of its connection to mosed (include/mose/control/pager.proto).
//
// It runs in a thread with a descriptor table of its own: the guardian shares the table of the others, and would keep
// the listening socket of a dead pager open for ever, so that nobody could tell that it is dead.
//
// Life: start() before there are userfaultfds (the thread's table is a copy of that moment, emptied at once); post() from
// any thread; the destructor ends the thread and removes the socket file.
class PagerServer {
 public:
  struct Handlers {
    int wake_fd = -1;  // what `thawed` and `quit` write to: the server's thread has a descriptor table of its own
    std::function<PagerStatus()> status;           // from the server's thread
    std::function<void()> thawed;
    std::function<void(bool discards)> standby;
    std::function<void()> pages_awaited;
    std::function<void(std::vector<StalePages> kept)> discarded;
    std::function<void(std::string images_dir)> standby_dropped;
    std::function<void(bool tree_is_dead)> quit;
  };
  [[nodiscard]] static Result<std::unique_ptr<PagerServer>> start(const std::string& socket_path, Handlers handlers);
  ~PagerServer();
  PagerServer(const PagerServer&) = delete;
  PagerServer& operator=(const PagerServer&) = delete;

  // Sends this event to mosed, if it is there; what it says is taken from status() at that moment.
  void post(PagerEventKind kind);
  // Until everything posted before has been written to mosed, or for so long; without a mosed there is nothing to wait for.
  void wait_said(Nanoseconds bound);

 private:
  struct Impl;
  explicit PagerServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mose::restore
