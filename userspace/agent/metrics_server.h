// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/config.h"
#include "agent/event_loop.h"
#include "agent/http_request.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose::agent {

// Answers GET and HEAD in the agent's event loop, on a unix socket and, where configured, on a loopback address. Whoever is
// on the other end may be anybody of this machine: connections, bytes, reads, time and accepts are bounded, and a page is
// made at most every kFresh, however often it is asked for.
//
// Each connection carries one request. At most kConnectionsMax are open; then the oldest makes room, so that a flood of
// them keeps a scraper out no longer than it takes to ask.
//
// Life: start() binds a fresh socket file (the caller holds the instance lock, so an old file is a leftover); the destructor
// closes everything and removes the file. Loop thread.
class MetricsServer {
 public:
  static constexpr size_t kConnectionsMax = 32;
  static constexpr Nanoseconds kConnectionBound = std::chrono::seconds(5);  // from accept to its end
  static constexpr Nanoseconds kFresh = std::chrono::milliseconds(100);
  static constexpr int kAcceptsMax = 64;  // in each kAcceptWindow: a flood waits in the kernel, not in the loop
  static constexpr Nanoseconds kAcceptWindow = std::chrono::milliseconds(100);
  static constexpr int kReadsMax = 64;  // of one connection: a request comes in a few pieces

  struct Page {
    HttpAnswer answer;
    std::string body;
  };
  // By path; nothing: there is no such page.
  using Pages = std::function<std::optional<Page>(const std::string& path)>;

  static Result<std::unique_ptr<MetricsServer>> start(EventLoop& loop, const MetricsConfig& config, Pages pages);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  [[nodiscard]] size_t connections() const { return connections_.size(); }

 private:
  struct Connection;
  struct Made {
    std::shared_ptr<const Page> page;
    Timestamp at{};
  };
  MetricsServer(EventLoop& loop, std::string socket, Pages pages);
  [[nodiscard]] Status listen_local();
  [[nodiscard]] Status watch(Fd listener);
  void on_listener(int listener);
  void take(Fd socket);
  void rest();
  void on_connection(uint64_t id, uint32_t events);
  void read_request(uint64_t id);
  void answer(uint64_t id, std::shared_ptr<const Page> page, bool with_body);
  void write(uint64_t id);
  void close(uint64_t id);
  [[nodiscard]] std::shared_ptr<const Page> page_of(const std::string& path);

  EventLoop& loop_;
  const std::string socket_;
  Pages pages_;
  std::map<int, Fd> listeners_;
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;  // by number, the oldest first
  uint64_t number_next_ = 1;
  std::map<std::string, Made> made_;  // only of paths that there are
  int accepts_ = 0;                   // in this window
  EventLoop::TimerId window_ = 0;
  bool resting_ = false;
};

}  // namespace mose::agent
