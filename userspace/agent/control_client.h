// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "agent/control_frames.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"

namespace mose::control::v1 {
class Request;
class Response;
}  // namespace mose::control::v1

namespace mose::agent {

inline constexpr const char* kControlSocketDefault = "/run/mose/mosed.sock";

// A client of one agent, for the command line, the lab and tests: blocking, one request at a time (a second one may be
// sent while a first streams: ids tell the answers apart).
//
//   MOSE_ASSIGN(auto client, ControlClient::connect(socket, std::chrono::seconds(2)));
//   control::v1::Request request;
//   request.mutable_ping();
//   control::v1::Response response;
//   MOSE_TRY(client.call(request, response, std::chrono::seconds(5)));
class ControlClient {
 public:
  // The error is the sentence of exit code 6, "agent not running at PATH: ...", also for a missing right (EACCES in
  // code).
  [[nodiscard]] static Result<ControlClient> connect(const std::string& path, Nanoseconds bound);

  // Sets the request's id and sends it.
  [[nodiscard]] Result<uint64_t> send(control::v1::Request& request);
  // The next response of any request. ETIMEDOUT after `bound` (0: no bound), ECONNRESET when the agent has gone,
  // EINTR when a signal handler ran and nothing was read: call again to go on.
  [[nodiscard]] Status receive(control::v1::Response& response, Nanoseconds bound);
  // send and receive until the last response of this request; a Failure is a normal response.
  [[nodiscard]] Status call(control::v1::Request& request, control::v1::Response& response, Nanoseconds bound);

  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  ControlClient(Fd socket, std::string path) : socket_(std::move(socket)), path_(std::move(path)) {}
  Fd socket_;
  std::string path_;
  FrameReader reader_;
  uint64_t next_id_ = 1;
};

}  // namespace mose::agent
