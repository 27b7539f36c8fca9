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

Status Channel::send(wire::FrameType type, std::span<const std::span<const std::byte>> parts) {
  size_t length = 0;
  for (const auto& part : parts) length += part.size();
  MOSE_CHECK(length <= payload_max(type), "a frame we make is within its bound");
  wire::FrameHeader header = make_header(type, stream_, static_cast<uint32_t>(length), checksum(parts));
  std::vector<iovec> vectors;
  vectors.reserve(parts.size() + 1);
  vectors.push_back({&header, sizeof(header)});
  for (const auto& part : parts) {
    if (!part.empty()) vectors.push_back({const_cast<std::byte*>(part.data()), part.size()});
  }
  return send_all(vectors);
}

Status Channel::send_all(std::span<iovec> parts) {
  while (!parts.empty()) {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
    // More vectors follow than one call takes: no small segment in between.
    int more = parts.size() > message.msg_iovlen ? MSG_MORE : 0;
    ssize_t sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT | more);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return fail_errno("send");
      MOSE_TRY(wait(POLLOUT, stall_max_));
      continue;
    }
    bytes_sent_ += static_cast<uint64_t>(sent);
    move_on(parts, static_cast<size_t>(sent));
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
