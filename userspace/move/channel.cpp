// SPDX-License-Identifier: MIT
#include "move/channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/check.h"

namespace mose::move {
namespace {

// Payloads larger than this grow as their bytes arrive: a length in a header alone takes no memory.
constexpr size_t kGrowBytes = 4u << 20;

// Moves the front of `parts` on by `bytes`.
void move_on(std::span<iovec>& parts, size_t bytes) {
  while (!parts.empty() && bytes >= parts.front().iov_len) {
    bytes -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (!parts.empty()) {
    parts.front().iov_base = static_cast<char*>(parts.front().iov_base) + bytes;
    parts.front().iov_len -= bytes;
  }
}

}  // namespace

Channel::Channel(Fd socket, const StreamId& stream, Nanoseconds stall_max)
    : socket_(std::move(socket)), stream_(stream), stall_max_(stall_max) {}

Status Channel::wait(short events, Nanoseconds bound) const {
  const Timestamp end = now() + bound;
  for (;;) {
    // Rounded up, so that a short bound does not become a busy loop.
    auto left = std::chrono::ceil<std::chrono::milliseconds>(end - now()).count();
    pollfd poll_fd{socket_.get(), events, 0};
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
    move_on(rest, allowed);
    left -= allowed;
  }
  return {};
}

// What the socket takes of the parts now, having waited until it takes something.
Result<size_t> Channel::send_some(std::span<const iovec> parts, bool more) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  for (;;) {
    ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
    if (sent >= 0) return static_cast<size_t>(sent);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return fail_errno("send");
    const Timestamp start = now();
    MOSE_TRY(wait(POLLOUT, stall_max_));
    send_blocked_ += now() - start;
  }
}

Status Channel::send_all(std::span<iovec> parts) {
  while (!parts.empty()) {
    const size_t count = std::min<size_t>(parts.size(), IOV_MAX);
    // More vectors follow than one call takes: no small segment in between.
    MOSE_ASSIGN(size_t sent, send_some(parts.first(count), parts.size() > count));
    bytes_sent_ += sent;
    move_on(parts, sent);
  }
  return {};
}

Result<wire::FrameHeader> Channel::receive_header(Nanoseconds bound) {
  MOSE_TRY(wait(POLLIN, bound));
  wire::FrameHeader header{};
  MOSE_TRY(receive_into(&header, sizeof(header)));
  MOSE_TRY(check_header(header, stream_));
  return header;
}

Status Channel::receive_into(void* to, size_t size) {
  iovec part{to, size};
  return receive_into(std::span<iovec>(&part, 1));
}

Status Channel::receive_into(std::span<iovec> parts) {
  move_on(parts, 0);  // no empty part in front
  while (!parts.empty()) {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
    ssize_t got = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (got == 0) return fail_errno("peer has closed the connection", ECONNRESET);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return fail_errno("receive");
      MOSE_TRY(wait(POLLIN, stall_max_));
      continue;
    }
    bytes_received_ += static_cast<uint64_t>(got);
    move_on(parts, static_cast<size_t>(got));
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

void Channel::shut_down() const {
  if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace mose::move
