// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/event_loop.h"
#include "base/fd.h"
#include "base/result.h"
#include "move/frame_buffer.h"
#include "move/hello.h"

namespace mose::agent {

// Listens for other nodes. Each connection says HELLO within a bounded time, gets ours, and is then handed over by its
// purpose; of whoever says something else not a byte is kept, and who does not fit is told why. Everything in the loop thread,
// nothing blocks.
class PeerServer {
 public:
  struct Incoming {
    Fd socket;             // non-blocking, nothing read beyond the HELLO
    move::StreamId stream;
    move::Hello hello;
    std::string address;   // of the peer, for messages
  };
  // `accept` decides before our HELLO goes out: an error's text is what the peer is told.
  struct Handlers {
    std::function<Status(const move::StreamId&, const move::Hello&)> accept;
    std::function<void(Incoming)> on_connection;
  };
  static constexpr Nanoseconds kHelloBound = std::chrono::seconds(5);
  // A connection without HELLO is closed after `hello_bound`.
  static Result<std::unique_ptr<PeerServer>> listen(EventLoop& loop, const std::string& endpoint, const move::Hello& mine,
                                                    Handlers handlers, Nanoseconds hello_bound = kHelloBound);
  ~PeerServer();
  PeerServer(const PeerServer&) = delete;
  PeerServer& operator=(const PeerServer&) = delete;

 private:
  struct Pending;
  PeerServer(EventLoop& loop, Fd listener, move::Hello mine, Handlers handlers, Nanoseconds hello_bound);
  void on_listener();
  void on_pending(int fd);
  void drop(int fd);

  EventLoop& loop_;
  Fd listener_;
  move::Hello mine_;
  Handlers handlers_;
  Nanoseconds hello_bound_;
  std::map<int, std::unique_ptr<Pending>> pending_;
};

}  // namespace mose::agent
