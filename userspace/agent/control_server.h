// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "agent/config.h"
#include "agent/event_loop.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose::control::v1 {
class Request;
class Response;
}  // namespace mose::control::v1

namespace mose::agent {

class ControlServer;

// The way back to the client of one request; a copyable value that may outlive its connection (then nothing is sent).
class Reply {
 public:
  Reply() = default;
  // Sets the request's id; `last` ends the request. Borrowed server: not after it is gone.
  void send(control::v1::Response& response, bool last) const;
  void fail(int exit_code, const std::string& reason) const;
  // False as soon as the client has closed its end.
  [[nodiscard]] bool open() const;

 private:
  friend class ControlServer;
  Reply(std::weak_ptr<ControlServer*> server, uint64_t connection, uint64_t request)
      : server_(std::move(server)), connection_(connection), request_(request) {}
  std::weak_ptr<ControlServer*> server_;
  uint64_t connection_ = 0;
  uint64_t request_ = 0;
};

// The control socket: accepts, checks who is there, cuts the stream into requests and writes answers, all in the event
// loop. A client that sends nonsense or does not read loses its connection and nothing else happens.
//
// Life: start() binds a fresh socket file (the caller holds the instance lock, so an old file is a leftover); the
// destructor closes everything and removes the file.
class ControlServer {
 public:
  using Handler = std::function<void(const control::v1::Request&, Reply)>;

  static Result<std::unique_ptr<ControlServer>> start(EventLoop& loop, const Config& config, Handler handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  [[nodiscard]] size_t connections() const { return connections_.size(); }

 private:
  friend class Reply;
  struct Connection;
  ControlServer(EventLoop& loop, const Config& config, Handler handler);
  void accept_ready();
  void ready(uint64_t id, uint32_t events);
  void read_requests(uint64_t id);
  void refuse_frame(uint64_t id, const std::string& reason);
  void write(uint64_t id, const std::string& payload);
  void flush(uint64_t id);
  void close(uint64_t id);

  EventLoop& loop_;
  const Config& config_;
  Handler handler_;
  Fd listener_;
  std::optional<gid_t> group_;  // looked up once, at start
  std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections_;
  uint64_t next_connection_ = 1;
  std::shared_ptr<ControlServer*> self_;
};

}  // namespace mose::agent
