// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "move/bandwidth.h"
#include "move/codec.h"
#include "move/stream_socket.h"

namespace mose::move {

// A blocking framed connection for threads that do nothing else. One thread sends and one (the same or another)
// receives. Every call has a bound; after any error the connection is useless: drop it.
//
// Life: made with a connected stream (connect_stream() and Tls::accept() make them); shut_down() from any thread makes
// calls under way and later ones fail at once; the destructor closes.
class Channel {
 public:
  // How long a call may stand without moving a byte.
  static constexpr Nanoseconds kStallMax = std::chrono::seconds(10);
  // Of both ends of urgent requests: a source that is near answers within this, and a destination asks for its next page.
  static constexpr Nanoseconds kEager = std::chrono::microseconds(100);

  Channel() = default;
  Channel(StreamSocket socket, const StreamId& stream, Nanoseconds stall_max = kStallMax);

  [[nodiscard]] Status send(wire::FrameType type, std::span<const std::byte> payload);
  // One frame whose payload is the parts one behind the other; nothing is copied.
  [[nodiscard]] Status send(wire::FrameType type, std::span<const std::span<const std::byte>> parts);
  // The same as `bandwidth` allows, with the checksum `sum` (kPagesBySums) if given. ECANCELED when `stop` is requested
  // meanwhile: part of the frame may be out.
  [[nodiscard]] Status send(wire::FrameType type, std::span<const std::span<const std::byte>> parts,
                            Bandwidth& bandwidth, const std::stop_token& stop, std::optional<uint64_t> sum = {});

  // The next frame's header, checked. Waits at most `bound` for its first byte (ETIMEDOUT; nothing is lost then), then
  // at most the stall time for each next piece.
  [[nodiscard]] Result<wire::FrameHeader> receive_header(Nanoseconds bound);
  // Exactly the next bytes of the payload, into the parts. The caller checks the checksum.
  [[nodiscard]] Status receive_into(std::span<iovec> parts);
  [[nodiscard]] Status receive_into(void* to, size_t size);
  // The whole payload of a header just received; memory grows with what has really arrived. Checksum checked.
  [[nodiscard]] Result<std::vector<std::byte>> receive_payload(const wire::FrameHeader& header);
  // receive_header + receive_payload.
  [[nodiscard]] Result<Frame> receive(Nanoseconds bound);

  // For small frames that somebody waits for. From now on a frame is read in one go, and a wait for one asks the socket
  // again and again for up to `time` before it sleeps, as long as the last wait was about as short: a peer that answers in
  // no more than it takes to fall asleep and be woken is worth a processor. Zero: as it was. The connection cannot be
  // given away by release() any more.
  void be_eager(Nanoseconds time);
  // Whether something can be received without waiting that poll(2) does not show.
  [[nodiscard]] bool has_pending() const { return ahead_begin_ != ahead_end_ || socket_.has_pending(); }

  void shut_down() const;
  [[nodiscard]] int fd() const { return socket_.fd(); }
  // Gives the connection to another owner; nothing beyond what was received is lost.
  [[nodiscard]] StreamSocket release();
  // Who the peer is; null in plain text.
  [[nodiscard]] const NodeCertificate* peer() const { return socket_.peer(); }
  [[nodiscard]] bool valid() const { return socket_.valid(); }
  [[nodiscard]] const StreamId& stream() const { return stream_; }
  // From any thread.
  [[nodiscard]] uint64_t bytes_sent() const { return std::atomic_ref(bytes_sent_).load(std::memory_order_relaxed); }
  [[nodiscard]] uint64_t bytes_received() const { return bytes_received_; }
  // How long sends have stood because the socket was full.
  [[nodiscard]] Nanoseconds send_blocked() const { return send_blocked_; }

 private:
  [[nodiscard]] Status wait(Wait wanted, Nanoseconds bound) const;
  [[nodiscard]] Status wait_to_send(Wait wanted);
  [[nodiscard]] Status send_all(std::span<iovec> parts);
  [[nodiscard]] size_t take_ahead(std::span<const iovec> parts);
  [[nodiscard]] Result<Moved> read(std::span<const iovec> parts);
  [[nodiscard]] Result<size_t> receive_some(std::span<const iovec> parts, Nanoseconds bound, Nanoseconds eager = {});

  StreamSocket socket_;
  StreamId stream_;
  Nanoseconds stall_max_ = kStallMax;
  mutable uint64_t bytes_sent_ = 0;  // whoever asks reads it while another thread sends
  uint64_t bytes_received_ = 0;
  Nanoseconds send_blocked_{0};
  Nanoseconds eager_{0}, last_wait_ = Nanoseconds::max();  // for a frame's first byte
  std::vector<std::byte> ahead_;  // of an eager one: read already, not received
  size_t ahead_begin_ = 0, ahead_end_ = 0;
};

}  // namespace mose::move
