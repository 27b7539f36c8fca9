// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <vector>

#include "base/result.h"
#include "move/codec.h"
#include "move/stream_socket.h"

// The same frames for an event loop: nothing here blocks.
namespace mose::move {

// Reads frames of a stream. After an error the connection is to be dropped.
class FrameReader {
 public:
  // Without `expected` any migration and epoch are accepted (the first frame of an incoming connection).
  explicit FrameReader(std::optional<StreamId> expected = {}) : expected_(std::move(expected)) {}
  void expect(const StreamId& stream) { expected_ = stream; }
  // Below the protocol's own bound: an IMAGES or STANDBY that is longer is an error (EMSGSIZE) before a byte of it is
  // read.
  void limit_images(uint64_t bytes_max) { images_bytes_max_ = bytes_max; }
  // A frame of any other type is an error before a byte of its payload is read.
  void take_only(wire::FrameType type) { only_ = type; }

  // The next whole frame, or nothing when the stream has no more bytes now. ECONNRESET when the peer has closed.
  // Never takes what is behind the frame that it returns: the stream can then be handed to a Channel.
  [[nodiscard]] Result<std::optional<Frame>> read(StreamSocket& socket);

 private:
  std::optional<StreamId> expected_;
  std::optional<wire::FrameType> only_;
  uint64_t images_bytes_max_ = wire::kImagesPayloadMax;
  std::array<std::byte, sizeof(wire::FrameHeader)> header_{};
  wire::FrameHeader parsed_{};
  std::vector<std::byte> payload_;
  bool have_header_ = false;
  size_t filled_ = 0;  // of the header, then of the payload
};

// Queues frames and writes them as the socket takes them.
class FrameWriter {
 public:
  static constexpr size_t kQueuedBytesMax = 320u << 20;  // one largest IMAGES frame and small ones

  // ENOBUFS when more than kQueuedBytesMax would wait.
  [[nodiscard]] Status push(wire::FrameType type, const StreamId& stream, std::span<const std::byte> payload);
  // Writes what the stream takes. True: the kernel has all of it.
  [[nodiscard]] Result<bool> flush(StreamSocket& socket);
  [[nodiscard]] bool empty() const { return queue_.empty(); }
  [[nodiscard]] size_t waiting_bytes() const { return queued_bytes_ - done_; }

 private:
  std::deque<std::vector<std::byte>> queue_;
  size_t done_ = 0;  // bytes of the front that are out
  size_t queued_bytes_ = 0;
};

}  // namespace mose::move
