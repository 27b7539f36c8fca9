// SPDX-License-Identifier: MIT
#include "move/channel.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/check.h"
#include "base/relax.h"

namespace mose::move {
namespace {

// Payloads larger than this grow as their bytes arrive: a length in a header alone takes no memory.
constexpr size_t kGrowBytes = 4u << 20;
// A page with its headers, and some.
constexpr size_t kAheadBytes = 16u << 10;
// Between two looks at the socket: half a microsecond.
constexpr int kPauses = 10;

}  // namespace

Channel::Channel(StreamSocket socket, const StreamId& stream, Nanoseconds stall_max)
    : socket_(std::move(socket)), stream_(stream), stall_max_(stall_max) {}

Status Channel::wait(Wait wanted, Nanoseconds bound) const {
  const Timestamp end = now() + bound;
  const short events = wanted == Wait::to_write ? POLLOUT : POLLIN;
  for (;;) {
    // Rounded up, so that a short bound does not become a busy loop.
    auto left = std::chrono::ceil<std::chrono::milliseconds>(end - now()).count();
    pollfd poll_fd{socket_.fd(), events, 0};
    int ready = poll(&poll_fd, 1, static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX)));
    if (ready > 0) return {};
    if (ready == 0) return fail_errno("peer is silent", ETIMEDOUT);
    if (errno != EINTR) return fail_errno("poll");
  }
}

Status Channel::send(wire::FrameType type, std::span<const std::byte> payload) {
  return send(type, std::span<const std::span<const std::byte>>(&payload, 1));
}

namespace {

// A frame's header and what follows it, as vectors.
struct Outgoing {
  wire::FrameHeader header;
  std::vector<iovec> vectors;

  Outgoing(wire::FrameType type, const StreamId& stream, std::span<const std::span<const std::byte>> parts,
           std::optional<uint64_t> sum = {}) {
    size_t length = 0;
    for (const auto& part : parts) length += part.size();
    MOSE_CHECK(length <= payload_max(type), "a frame we make is within its bound");
    header = make_header(type, stream, static_cast<uint32_t>(length), sum ? *sum : checksum(parts));
    vectors.reserve(parts.size() + 1);
    vectors.push_back({&header, sizeof(header)});
    for (const auto& part : parts) {
      if (!part.empty()) vectors.push_back({const_cast<std::byte*>(part.data()), part.size()});
    }
  }
  Outgoing(const Outgoing&) = delete;
  Outgoing& operator=(const Outgoing&) = delete;
};

// The first `bytes` bytes of the parts.
std::vector<iovec> front(std::span<const iovec> parts, size_t bytes) {
  std::vector<iovec> out;
  for (const iovec& part : parts) {
    if (bytes == 0) break;
    out.push_back({part.iov_base, std::min(part.iov_len, bytes)});
    bytes -= out.back().iov_len;
  }
  return out;
}

}  // namespace

Status Channel::send(wire::FrameType type, std::span<const std::span<const std::byte>> parts) {
  Outgoing frame(type, stream_, parts);
  return send_all(frame.vectors);
}

Status Channel::send(wire::FrameType type, std::span<const std::span<const std::byte>> parts, Bandwidth& bandwidth,
                     const std::stop_token& stop, std::optional<uint64_t> sum) {
  Outgoing frame(type, stream_, parts, sum);
  if (!bandwidth.limited()) return send_all(frame.vectors);
  std::span<iovec> rest(frame.vectors);
  size_t left = 0;
  for (const iovec& part : rest) left += part.iov_len;
  while (left != 0) {
    const size_t allowed = bandwidth.take(left, stop);
    if (allowed == 0) return fail_errno("sending a frame", ECANCELED);
    std::vector<iovec> burst = front(rest, allowed);
    MOSE_TRY(send_all(burst));
    skip_bytes(rest, allowed);
    left -= allowed;
  }
  return {};
}

Status Channel::wait_to_send(Wait wanted) {
  const Timestamp start = now();
  MOSE_TRY(wait(wanted, stall_max_));
  send_blocked_ += now() - start;
  return {};
}

Status Channel::send_all(std::span<iovec> parts) {
  while (!parts.empty()) {
    MOSE_ASSIGN(Moved sent, socket_.write(parts));
    std::atomic_ref(bytes_sent_).fetch_add(sent.bytes, std::memory_order_relaxed);
    skip_bytes(parts, sent.bytes);
    if (sent.bytes == 0 && sent.wait != Wait::nothing) MOSE_TRY(wait_to_send(sent.wait));
  }
  for (;;) {
    MOSE_ASSIGN(bool out, socket_.flush());
    if (out) return {};
    MOSE_TRY(wait_to_send(Wait::to_write));
  }
}

void Channel::be_eager(Nanoseconds time) {
  eager_ = time;
  ahead_.resize(kAheadBytes);
}

StreamSocket Channel::release() {
  MOSE_CHECK(ahead_begin_ == ahead_end_, "nothing of the next frame is here");
  return std::move(socket_);
}

size_t Channel::take_ahead(std::span<const iovec> parts) {
  size_t taken = 0;
  for (const iovec& part : parts) {
    const size_t size = std::min(part.iov_len, ahead_end_ - ahead_begin_);
    if (size == 0) break;
    std::memcpy(part.iov_base, ahead_.data() + ahead_begin_, size);
    ahead_begin_ += size;
    taken += size;
  }
  return taken;
}

// As StreamSocket::read(), and what lies behind the parts is kept for the next time.
Result<Moved> Channel::read(std::span<const iovec> parts) {
  if (const size_t taken = take_ahead(parts); taken != 0) return Moved{taken};
  if (eager_ == Nanoseconds(0) || parts.size() != 1) return socket_.read(parts);
  const std::array<iovec, 2> both{parts.front(), {ahead_.data(), ahead_.size()}};
  MOSE_ASSIGN(Moved got, socket_.read(both));
  ahead_begin_ = 0;
  ahead_end_ = got.bytes - std::min(got.bytes, parts.front().iov_len);
  got.bytes -= ahead_end_;
  return got;
}

// What is there now, having waited at most `bound` until something is, the first `eager` of it awake.
Result<size_t> Channel::receive_some(std::span<const iovec> parts, Nanoseconds bound, Nanoseconds eager) {
  const Timestamp start = now(), end = start + bound, awake_until = start + std::min(eager, bound);
  for (;;) {
    MOSE_ASSIGN(Moved got, read(parts));
    if (got.bytes > 0) {
      bytes_received_ += got.bytes;
      return got.bytes;
    }
    const Timestamp time = now();
    if (got.wait == Wait::to_read && time < awake_until) {
      for (int i = 0; i < kPauses; ++i) relax();
      continue;
    }
    MOSE_TRY(wait(got.wait, std::max(end - time, Nanoseconds(0))));
  }
}

Result<wire::FrameHeader> Channel::receive_header(Nanoseconds bound) {
  wire::FrameHeader header{};
  iovec part{&header, sizeof(header)};
  const Timestamp start = now();
  auto first = receive_some({&part, 1}, bound, last_wait_ / 2 <= eager_ ? eager_ : Nanoseconds(0));
  last_wait_ = now() - start;
  MOSE_ASSIGN(size_t got, std::move(first));
  MOSE_TRY(receive_into(reinterpret_cast<std::byte*>(&header) + got, sizeof(header) - got));
  MOSE_TRY(check_header(header, stream_));
  return header;
}

Status Channel::receive_into(void* to, size_t size) {
  iovec part{to, size};
  return receive_into(std::span<iovec>(&part, 1));
}

Status Channel::receive_into(std::span<iovec> parts) {
  skip_bytes(parts, 0);  // no empty part in front
  while (!parts.empty()) {
    MOSE_ASSIGN(size_t got, receive_some(parts, stall_max_));
    skip_bytes(parts, got);
  }
  return {};
}

Result<std::vector<std::byte>> Channel::receive_payload(const wire::FrameHeader& header) {
  std::vector<std::byte> payload;
  while (payload.size() < header.length) {
    size_t at = payload.size();
    size_t piece = std::min<size_t>(header.length - at, std::max(at, kGrowBytes));
    payload.resize(at + piece);
    MOSE_TRY(receive_into(payload.data() + at, piece));
  }
  if (checksum(payload) != header.checksum) {
    return fail(std::string(to_string(static_cast<wire::FrameType>(header.type))) + " frame with a wrong checksum");
  }
  return payload;
}

Result<Frame> Channel::receive(Nanoseconds bound) {
  MOSE_ASSIGN(wire::FrameHeader header, receive_header(bound));
  Frame frame{static_cast<wire::FrameType>(header.type), stream_, {}};
  MOSE_ASSIGN(frame.payload, receive_payload(header));
  return frame;
}

void Channel::shut_down() const { socket_.shut_down(); }

}  // namespace mose::move
