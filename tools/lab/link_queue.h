// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

// One direction of an emulated link: a drop-tail queue, a wire of a certain rate behind it, and a delay behind that.
// Pure: time is what the caller says.
namespace mose::lab {

struct LinkShape {
  uint64_t rate_bits_per_s = 0;  // 0: unlimited, then nothing waits before the wire
  int64_t delay_ns = 0;          // one way
  size_t queue_bytes = 0;        // that may wait before the wire; what would be more is dropped
};

// The queue that a link gets: 50 ms of its rate, as tbf has it where --link rate= alone is asked for, but room for some
// frames of the size that segmentation offload makes.
inline constexpr int64_t kLinkQueueNs = 50'000'000;
inline constexpr size_t kLinkQueueBytesMin = 256u << 10;
// In flight, where neither rate nor queue sets a bound: 64 MiB are 270 Mbit/s over two seconds. Beyond it frames drop.
inline constexpr size_t kLinkBytesMax = 64u << 20;
// The wire's share that is not lost when it was idle, as tbf's burst: the emulator reads late on a busy machine what
// was there earlier.
inline constexpr int64_t kLinkBurstNs = 2'000'000;

class LinkQueue {
 public:
  explicit LinkQueue(LinkShape shape) : shape_(shape) {}

  // False: there was no room, the frame is dropped and counted. Times do not go back from call to call.
  bool push(std::string frame, size_t wire_bytes, int64_t now_ns);
  // When the next frame comes out at the other end.
  [[nodiscard]] std::optional<int64_t> next_due_ns() const;
  [[nodiscard]] std::string pop();
  [[nodiscard]] uint64_t dropped() const { return dropped_; }

 private:
  struct Frame {
    int64_t due_ns;
    std::string bytes;
  };
  LinkShape shape_;
  std::deque<Frame> frames_;
  size_t held_bytes_ = 0;     // of frames_
  int64_t wire_free_ns_ = 0;  // the last frame will have left then
  uint64_t dropped_ = 0;
};

// Of a rate; 0 for none.
[[nodiscard]] size_t link_queue_bytes(uint64_t rate_bits_per_s);

// Bytes that a frame of a tap (virtio_net_hdr first) is on the wire, where segmentation has made it several frames.
[[nodiscard]] size_t wire_bytes(std::string_view frame);

}  // namespace mose::lab
