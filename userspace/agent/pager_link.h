// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "agent/event_loop.h"
#include "restore/pager_client.h"

namespace mose::agent {

// The event loop's connection to the pager process of one migration, made again whenever it is lost. A pager that has
// died while its guardian lives is replaced by one that adopts the guardian's descriptors.
class PagerLink {
 public:
  struct Handlers {
    std::function<void()> on_fenced;  // the restored tree is frozen and CRIU's stream has ended
    std::function<void(std::string refusal)> on_standby;  // empty: what CRIU restores next is a standby
    std::function<void()> on_staged;        // what had come is in the standby
    // Pages that are to be taken out of it: discarded() is awaited. Again after a reconnect.
    std::function<void(std::vector<restore::StalePages>)> on_stale;
    std::function<void()> on_refreshed;     // and by now nothing in it is stale
    std::function<void()> on_filled;        // every page is in
    std::function<void()> on_standby_gone;  // the pager is as it was before
    std::function<void()> on_progress;  // status() has new figures
    std::function<void()> on_complete;
    std::function<void(std::string reason)> on_failed;
    // Whether another may go on where one has died. Asked then, after the final map; before it there is nothing to go on with.
    std::function<bool()> may_be_replaced;
    std::function<void(std::string reason)> on_died;  // and is not replaced
  };
  // `launch`: how the pager was started, for a replacement.
  PagerLink(EventLoop& loop, restore::PagerLaunch launch, Handlers handlers);
  ~PagerLink();
  PagerLink(const PagerLink&) = delete;
  PagerLink& operator=(const PagerLink&) = delete;

  void connect();
  // One that has died (on_died) is replaced after all: by now there is something to go on with.
  void go_on() { if (!client_ && timer_ == 0) retry(); }
  // Tells the pager that the tree runs, now or as soon as there is a connection.
  void thawed();
  // See PagerClient; asked again after a reconnect.
  void standby(bool discards);
  // Again after a reconnect, until the standby is dropped.
  void pages_awaited();
  void discarded(const std::vector<restore::StalePages>& kept);
  void standby_dropped();
  [[nodiscard]] const restore::PagerStatus& status() const { return status_; }
  // Another one each time that the connection is made or lost: who asked on one may not be answered on the next.
  [[nodiscard]] unsigned connection() const { return connection_; }

 private:
  void on_ready(uint32_t events);
  void note_standby();
  void lost(const std::string& reason);
  void retry();
  void replace_dead_pager();
  [[nodiscard]] bool heard_last_word();
  void note_phase();

  EventLoop& loop_;
  restore::PagerLaunch launch_;
  Handlers handlers_;
  std::optional<restore::PagerClient> client_;
  restore::PagerStatus status_;
  EventLoop::TimerId timer_ = 0;
  ProcessHandle replacement_;  // of a dead pager
  unsigned failures_ = 0, connection_ = 0;
  bool thawed_ = false;
  bool fenced_ = false;
  bool standby_asked_ = false, discards_ = false, stale_told_ = false, staged_ = false, refreshed_ = false, dropping_ = false, filled_ = false, awaited_ = false;
  bool complete_ = false, nobody_told_ = false, slow_told_ = false;
};

// Blocking: makes the pager of a dead tree leave, its guardian too; nothing of them is left when it returns.
[[nodiscard]] Status end_pager(const std::string& socket_path, Nanoseconds bound);

}  // namespace mose::agent
