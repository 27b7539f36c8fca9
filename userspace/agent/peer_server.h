// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/event_loop.h"
#include "agent/refusal_log.h"
#include "base/fd.h"
#include "base/result.h"
#include "move/frame_buffer.h"
#include "move/hello.h"
#include "move/tls.h"

namespace mose::agent {

// Listens for other nodes. Each connection shows its certificate (unless plain text is spoken) and says HELLO within a
// bounded time, gets ours, and is then handed over by its purpose; of whoever says something else not a byte is kept, and
// who does not fit is told why. Everything in the loop thread, nothing blocks.
//
// At most kPendingMax wait at one time; then the address that has most of them loses its oldest, so that a flood of
// connections that say nothing keeps out neither other nodes nor, for longer than it takes to say HELLO, its own.
class PeerServer {
 public:
  struct Incoming {
    move::StreamSocket socket;  // nothing taken beyond the HELLO
    move::StreamId stream;
    move::Hello hello;          // its name is one of its certificate's
    std::string address;        // of the peer, for messages
  };
  // `accept` decides before our HELLO goes out: an error's text is what the peer is told. The certificate is null in plain
  // text.
  struct Handlers {
    std::function<Status(const move::StreamId&, const move::Hello&, const move::NodeCertificate*)> accept;
    std::function<void(Incoming)> on_connection;
    // Whether one of our nodes is at this address (without a port). Empty: all are.
    std::function<bool(const std::string& host)> is_known = {};
  };
  static constexpr Nanoseconds kHelloBound = std::chrono::seconds(5);
  static constexpr size_t kPendingMax = 64;
  // Of addresses where no node of ours is, in each second: a handshake costs the event loop a millisecond, and those who
  // come behind an address of another's are let in as well, as long as there are not so many of them.
  static constexpr unsigned kStrangersMax = 50;
  static constexpr Nanoseconds kStrangersWindow = std::chrono::seconds(1);
  // A connection without HELLO is closed after `hello_bound`. Without `tls`: plain text.
  static Result<std::unique_ptr<PeerServer>> listen(EventLoop& loop, const std::string& endpoint, const move::Hello& mine,
                                                    Handlers handlers, Nanoseconds hello_bound = kHelloBound,
                                                    std::shared_ptr<move::Tls> tls = {});
  ~PeerServer();
  PeerServer(const PeerServer&) = delete;
  PeerServer& operator=(const PeerServer&) = delete;

  [[nodiscard]] const RefusalCounts& refused() const { return refused_; }

 private:
  struct Pending;
  PeerServer(EventLoop& loop, Fd listener, move::Hello mine, Handlers handlers, Nanoseconds hello_bound, std::shared_ptr<move::Tls> tls);
  void on_listener();
  void take(Fd socket, std::string peer);
  void make_room();
  [[nodiscard]] bool is_one_stranger_more(const std::string& peer);
  void on_pending(int fd);
  // What an error of them counts as stands in `kind`.
  [[nodiscard]] Result<std::optional<move::Frame>> hello_of(int fd, Pending& pending, RefusalKind& kind);
  [[nodiscard]] Status check(const Pending& pending, const move::StreamId& stream, const move::Hello& hello, RefusalKind& kind) const;
  void answer(int fd, const move::StreamId& stream, move::Hello hello);
  void turn_away(int fd, RefusalKind kind, const std::string& node, const Error& reason);
  void drop(int fd);

  EventLoop& loop_;
  Fd listener_;
  move::Hello mine_;
  Handlers handlers_;
  Nanoseconds hello_bound_;
  std::shared_ptr<move::Tls> tls_;
  RefusalCounts refused_{};
  RefusalLog refusals_;
  RefusalLog silent_;  // of those that said nothing: a flood of them must not hide the other reasons
  uint64_t number_next_ = 0;
  Timestamp strangers_since_{};
  unsigned strangers_ = 0;  // since then
  std::map<int, std::unique_ptr<Pending>> pending_;
};

}  // namespace mose::agent
