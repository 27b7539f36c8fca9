// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/fd.h"
#include "base/result.h"
#include "client/resp.h"

namespace mose::client {

struct Endpoint {
  std::string address;  // IPv4
  uint16_t port = 6379;
};

// One TCP connection to the server. Life: connect() (blocking, bounded), then send() and receive() without blocking until
// one of them says closed; after that only close() and a new connection help.
//
// The congestion control is cubic on every host: the default differs between distributions, and one that paces (bbr)
// spreads the packets after a pause, which would then be measured as the server's doing.
class Connection {
 public:
  [[nodiscard]] static Result<Connection> connect(const Endpoint& server, Nanoseconds bound);

  Connection() = default;
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool open() const { return fd_.valid(); }
  void close() { fd_.reset(); }
  // errno that ended it; 0 for an end of stream.
  [[nodiscard]] int close_code() const { return close_code_; }

  // full: nothing was taken, the request was not sent. sent: it was taken whole, the rest of a partial write is kept here
  // and goes out first.
  enum class Sent { sent, full, closed };
  [[nodiscard]] Sent send(std::string_view request);
  // Takes all of it, whatever the send buffer takes now: an open loop's requests are due while the server stands still.
  // False when the connection has ended.
  [[nodiscard]] bool queue(std::string_view requests);
  [[nodiscard]] size_t unsent_bytes() const { return unsent_.size() - unsent_begin_; }
  // Reads what there is into the reader; false when the connection has ended (then open() is false).
  [[nodiscard]] bool receive();
  ReplyReader& replies() { return replies_; }

  // Retransmitted segments so far, as the kernel counts them.
  [[nodiscard]] uint64_t retransmits() const;

  // For the bulk operations: writes everything, waiting as long as it makes progress within `bound`.
  [[nodiscard]] Status send_all(std::string_view bytes, Nanoseconds bound);
  // Waits for one answer. The text of the reply is valid until the next call.
  [[nodiscard]] Status wait_reply(Reply& reply, Nanoseconds bound);

 private:
  bool flush();
  void end(int code);

  Fd fd_;
  std::string unsent_;
  size_t unsent_begin_ = 0;  // what is before it has gone out
  ReplyReader replies_;
  int close_code_ = 0;
};

}  // namespace mose::client
