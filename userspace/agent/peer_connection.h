// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/event_loop.h"
#include "base/clock.h"
#include "model/report.h"
#include "move/frame_buffer.h"
#include "move/hello.h"

namespace mose::agent {

// One CONTROL connection to a peer in the event loop, after HELLO both ways. Nothing blocks; frames go out in order. PING
// and PONG are its own affair: on_frame never sees them.
//
// Life: made with a connected stream; handlers run in the loop thread and may destroy the object. on_closed comes once,
// with the reason, and nothing after it. The destructor closes.
class PeerConnection {
 public:
  struct Handlers {
    std::function<void(wire::FrameType type, std::string payload)> on_frame;
    std::function<void(std::string reason)> on_closed;
  };

  // `reader` may already have been used for the HELLO.
  PeerConnection(EventLoop& loop, move::StreamSocket socket, const move::StreamId& stream, std::string peer_node);
  ~PeerConnection();
  PeerConnection(const PeerConnection&) = delete;
  PeerConnection& operator=(const PeerConnection&) = delete;

  // Frames that are read at once; a peer that sends more has its next turn when everybody else has had one.
  static constexpr int kFramesPerTurn = 64;

  // Between two frames: longer images are not taken (FrameReader).
  void limit_images(uint64_t bytes_max) { reader_.limit_images(bytes_max); }
  // Begins to watch; once.
  [[nodiscard]] Status open(Handlers handlers);
  // Another owner takes over.
  void set_handlers(Handlers handlers) { handlers_ = std::make_shared<Handlers>(std::move(handlers)); }
  // Queued, written as the socket takes it. After a failure on_closed follows.
  void send(wire::FrameType type, std::string_view payload = {});
  [[nodiscard]] const std::string& peer_node() const { return peer_node_; }
  // Null: plain text.
  [[nodiscard]] const move::NodeCertificate* certificate() const { return socket_.peer(); }
  // For the report; nothing: plain text.
  [[nodiscard]] std::optional<TlsUsed> tls_used() const;
  [[nodiscard]] uint64_t bytes_sent() const { return bytes_sent_; }
  // From now on the peer must show that it is there: silence for `silence_max` closes the connection. PINGs are sent as
  // needed; a peer whose kernel still takes data (a long frame on a slow link) is not silent, and one whose kernel has
  // acknowledged the PING, or all that it has room for, has several times as long to answer. 0: no longer.
  void expect_life(Nanoseconds silence_max);
  // As the kernel measures it; 0: not known.
  [[nodiscard]] Nanoseconds round_trip() const;

 private:
  void on_events(uint32_t events);
  void read_frames();
  void read_later();
  void flush();
  void watch_output(bool wanted);
  void close(std::string reason);
  void check_life();

  EventLoop& loop_;
  move::StreamSocket socket_;
  move::StreamId stream_;
  std::string peer_node_;
  std::shared_ptr<Handlers> handlers_;  // shared with a call under way, which may destroy this object
  move::FrameReader reader_;
  move::FrameWriter writer_;
  bool watched_ = false;
  bool writing_ = false;
  bool later_ = false;  // reading goes on in a post
  uint64_t bytes_sent_ = 0;
  Nanoseconds silence_max_{0};
  EventLoop::TimerId life_timer_ = 0;
  Timestamp heard_{}, checked_{};
  size_t unacknowledged_ = 0;
  bool no_room_ = false;  // at the peer, when that was last looked at
  bool pinged_ = false;  // and not answered yet
  unsigned pongs_waiting_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mose::agent
