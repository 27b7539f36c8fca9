// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "model/page_provider.h"
#include "model/page_wait.h"
#include "move/channel.h"
#include "move/hello.h"
#include "move/page_store.h"
#include "move/tls.h"

namespace mose::move {

// Makes one connection to the source for a purpose (bulk or urgent), HELLO done. Called from the receiver's threads,
// must return in bounded time. connect_to_source() is the real one, tests have their own.
using Connector = std::function<Result<Channel>(Purpose)>;
// `endpoint` is "host:port"; every connection is bounded by `bound`. With `peer` the source must be that node, by its
// certificate where there is `tls` and by its HELLO.
[[nodiscard]] Connector connect_to_source(std::string endpoint, StreamId stream, Hello mine, Nanoseconds bound,
                                          std::shared_ptr<Tls> tls = {}, std::string peer = {});

struct ReceiverStats {
  uint64_t bytes = 0;           // received, headers included
  uint64_t pages = 0;           // page contents received, duplicates too
  uint64_t pages_duplicate = 0; // arrived after another copy
  uint64_t rounds = 0;
  uint64_t remote_pages = 0;    // of the final map
  uint64_t missing_pages = 0;   // of those, not here yet
  uint64_t requests = 0;        // REQUEST frames sent
  uint64_t reconnects = 0;
  SourceTrouble trouble;        // once sealed
};

struct PageReceiverOptions {
  Connector connect;
  // A stream that is lost before the final map is in: the migration cannot go on. Called once, from a receiver thread.
  std::function<void(Error)> on_failure;
  std::function<void(const Error&)> on_trouble;  // a stream was lost or refused after sealing; it will be tried again
  std::function<void(unsigned round)> on_round;  // ROUND_END has arrived
  std::function<void()> on_sealed;
  std::function<void()> on_complete;             // every page is local; called once
  Nanoseconds backoff_min = std::chrono::milliseconds(20);
  Nanoseconds backoff_max = std::chrono::seconds(2);
};

// The destination's end of the page streams, and the PageProvider that the pager serves faults from. Lives in the pager
// process.
//
// Life: start() connects BULK and URGENT in threads of its own; before the store is sealed a lost stream is a failure
// (on_failure); afterwards it reconnects for ever with backoff and asks for what is missing, until everything is local or
// stop(). With a store that was adopted (sealed) it asks for all that is missing at once. The store must outlive it.
class PageReceiver final : public PageProvider {
 public:
  PageReceiver(PageStore& store, PageReceiverOptions options);
  ~PageReceiver() override;  // stop()

  void start();
  // Ends the threads; returns when they have ended. Idempotent. Not from one of its own callbacks.
  void stop();

  [[nodiscard]] ReceiverStats stats() const;
  [[nodiscard]] bool complete() const { return store_.sealed() && store_.missing_pages() == 0; }

  // PageProvider
  [[nodiscard]] bool sealed() const override { return store_.sealed(); }
  [[nodiscard]] Extent place(SpaceId space, uint64_t page, uint64_t max) const override;
  [[nodiscard]] std::span<const std::byte> contents(SpaceId space, uint64_t page, uint64_t max) const override;
  void request(SpaceId space, PageRun run) override;
  void request_all(SpaceId space, std::span<const PageRun> runs) override;
  void on_local(Listener listener) override;
  [[nodiscard]] std::vector<SpaceId> spaces() const override;
  [[nodiscard]] const PageSet& present(SpaceId space) const override;
  [[nodiscard]] std::vector<PageSet> hot(SpaceId space) const override;
  void begin_staging() override { store_.begin_staging(); }
  [[nodiscard]] uint64_t staging_news() const override { return store_.staging_news(); }
  [[nodiscard]] PageSet unstaged(SpaceId space) const override { return store_.unstaged(space); }
  [[nodiscard]] std::span<const std::byte> stage(SpaceId space, uint64_t page, uint64_t max) override {
    return store_.stage(space, page, max);
  }
  void unstage(SpaceId space, PageRun run) override { store_.unstage(space, run); }
  [[nodiscard]] PageSet staged(SpaceId space) const override { return store_.staged(space); }

 private:
  struct Impl;
  PageStore& store_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mose::move
