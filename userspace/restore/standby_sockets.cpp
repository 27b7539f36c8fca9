// SPDX-License-Identifier: MIT
// Connections of the standby, by the kernel's repair mode: the socket stays the same, so that epolls that watch it go
// on.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "restore/standby_actions.h"

namespace mose::restore {
namespace {

constexpr int kRepairOn = 1, kRepairOff = 0;
constexpr int kNoQueue = 0, kReceiveQueue = 1, kSendQueue = 2;  // of TCP_REPAIR_QUEUE
constexpr size_t kChunkMax = 32768, kChunkMin = 1024;           // one piece of a queue is one allocation in the kernel
constexpr int kBufferMax = INT_MAX / 2;
constexpr uint32_t kMssMin = 88, kMssMax = 32767;                 // that the kernel takes here
constexpr int kOptionBufferLock = 72;                             // SO_BUF_LOCK, newer than the C library's headers
constexpr uint32_t kTimestamps = 1, kSack = 2, kWindowScale = 4;  // TCPI_OPT_*
constexpr uint32_t kCodeMaxSegment = 2, kCodeWindow = 3, kCodeSack = 4, kCodeTimestamp = 8;  // TCPOPT_*

template <typename T>
Status set(int fd, int level, int name, const T& value, const char* what) {
  if (::setsockopt(fd, level, name, &value, sizeof value) < 0) return fail_errno(what);
  return {};
}

int option(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  return ::getsockopt(fd, level, name, &value, &length) < 0 ? -1 : value;
}

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Address address_of(bool ipv6, const std::array<uint8_t, 16>& bytes, uint16_t port) {
  Address out;
  if (ipv6) {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    std::memcpy(&in6->sin6_addr, bytes.data(), 16);
    out.length = sizeof *in6;
  } else {
    auto* in4 = reinterpret_cast<sockaddr_in*>(&out.storage);
    in4->sin_family = AF_INET;
    in4->sin_port = htons(port);
    std::memcpy(&in4->sin_addr, bytes.data(), 4);
    out.length = sizeof *in4;
  }
  return out;
}

Status set_sequence(int fd, int queue, uint32_t sequence) {
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue, "choose a queue"));
  return set(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, sequence, "set a sequence number");
}

Status fill_queue(int fd, std::string_view bytes) {
  size_t chunk = kChunkMax;
  while (!bytes.empty()) {
    ssize_t n = ::send(fd, bytes.data(), std::min(chunk, bytes.size()), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == 0) return fail("fill a queue: it takes nothing");
    if (n < 0) {
      if (errno == EINTR) continue;
      if (chunk <= kChunkMin) return fail_errno("fill a queue");
      chunk /= 2;
      continue;
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return {};
}

Status fill_repair_queue(int fd, int queue, std::string_view bytes) {
  if (bytes.empty()) return {};
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue, "choose a queue"));
  return fill_queue(fd, bytes);
}

Status set_options(int fd, const StandbyConnection& c) {
  struct {
    uint32_t code, value;
  } options[4];
  size_t count = 0;
  if (c.options & kSack) options[count++] = {kCodeSack, 0};
  if (c.options & kWindowScale) options[count++] = {kCodeWindow, c.send_scale | c.receive_scale << 16};
  if (c.options & kTimestamps) options[count++] = {kCodeTimestamp, 0};
  options[count++] = {kCodeMaxSegment, c.mss};
  if (::setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, static_cast<socklen_t>(count * sizeof options[0])) < 0)
    return fail_errno("set the options that were negotiated");
  return {};
}

Status set_window(int fd, const StandbyConnection::Window& from) {
  const uint32_t window[5] = {from.send_wl1, from.send_window, from.max_window, from.receive_window, from.receive_wup};
  return set(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, window, "set the windows");
}

Status set_buffers(int fd, int send, int receive) {
  MOSE_TRY(set(fd, SOL_SOCKET, SO_SNDBUFFORCE, send, "set the size of the send buffer"));
  return set(fd, SOL_SOCKET, SO_RCVBUFFORCE, receive, "set the size of the receive buffer");
}

// Wakes whoever waits for the socket; epolls look at it anew, and find what has been put into its queues by then.
Status take_down(int fd) {
  const sockaddr nowhere{AF_UNSPEC, {}};
  if (::connect(fd, &nowhere, sizeof nowhere) < 0) return fail_errno("take the connection down");
  (void)option(fd, SOL_SOCKET, SO_ERROR);  // what taking it down has left
  return {};
}

Status build_up(int fd, const StandbyConnection& c) {
  // CRIU has bound it to its address, which a socket keeps; one that it had not bound so is bound now.
  Address local = address_of(c.ipv6, c.local, c.local_port), remote = address_of(c.ipv6, c.remote, c.remote_port);
  Address present;
  present.length = sizeof present.storage;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&present.storage), &present.length) < 0)
    return fail_errno("ask for the address of a connection");
  if (std::memcmp(&present.storage, &local.storage, local.length) != 0 && ::bind(fd, local.get(), local.length) < 0)
    return fail_errno("bind a connection");
  // As at the restore: no queue may fail for its size, and the window follows the buffer only from here on.
  MOSE_TRY(set_buffers(fd, kBufferMax, kBufferMax));
  MOSE_TRY(set_sequence(fd, kReceiveQueue, c.in_sequence - static_cast<uint32_t>(c.in_queue.size())));
  MOSE_TRY(set_sequence(fd, kSendQueue, c.out_sequence - static_cast<uint32_t>(c.sent.size() + c.unsent.size())));
  // The size of segments is worked out in connect() and, when the clamp is set after it, not again until the path
  // changes: without this it stays at 536 for good.
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_MAXSEG, static_cast<int>(std::clamp(c.mss, kMssMin, kMssMax)),
               "set the size of segments"));
  if (::connect(fd, remote.get(), remote.length) < 0) return fail_errno("connect in repair mode");
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_MAXSEG, 0, "set the size of segments"));
  MOSE_TRY(set_options(fd, c));
  if (c.options & kTimestamps) MOSE_TRY(set(fd, IPPROTO_TCP, TCP_TIMESTAMP, c.timestamp, "set the timestamp"));
  MOSE_TRY(fill_repair_queue(fd, kReceiveQueue, c.in_queue));
  MOSE_TRY(fill_repair_queue(fd, kSendQueue, c.sent));
  if (c.window) MOSE_TRY(set_window(fd, *c.window));
  return set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, kNoQueue, "choose no queue");
}

Status restore_one(int fd, const StandbyConnection& c) {
  if (option(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP ||
      option(fd, SOL_SOCKET, SO_DOMAIN) != (c.ipv6 ? AF_INET6 : AF_INET) || option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 0)
    return fail("it is no connection in the standby");
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_REPAIR, kRepairOn, "enter repair mode"));
  // Also one on which nothing has happened: its clocks and its segment size are put right on the way.
  MOSE_TRY(take_down(fd));
  return build_up(fd, c);
}

Status release_one(int fd, const StandbyConnection& c) {
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_REPAIR, kRepairOff, "leave repair mode"));
  MOSE_TRY(set(fd, SOL_SOCKET, SO_REUSEADDR, c.reuse_address ? 1 : 0, "set SO_REUSEADDR"));
  // While the buffers are still large: what the source had queued may take more room here.
  MOSE_TRY(fill_queue(fd, c.unsent));
  MOSE_TRY(set_buffers(fd, static_cast<int>(c.send_buffer / 2), static_cast<int>(c.receive_buffer / 2)));  // it doubles
  return set(fd, SOL_SOCKET, kOptionBufferLock, static_cast<int>(c.buffer_lock), "let the kernel tune the buffers");
}

// Was quieted with the others, and is what the final dump says.
Status release_resting(int fd, const StandbyRestingConnection& c) {
  MOSE_TRY(set(fd, IPPROTO_TCP, TCP_REPAIR, kRepairOff, "leave repair mode"));
  return set(fd, SOL_SOCKET, SO_REUSEADDR, c.reuse_address ? 1 : 0, "set SO_REUSEADDR");
}

}  // namespace

Status StandbyConnections::restore(const StandbyDelta& delta, std::span<const StandbyProcess> tree) {
  for (const StandbyConnection& connection : delta.connections) {
    MOSE_ASSIGN(Fd fd, standby_file(connection.descriptor, tree));
    sockets_.push_back(std::move(fd));
    if (auto status = restore_one(sockets_.back().get(), connection); !status)
      return context("connection behind " + to_string(connection.descriptor), std::move(status).error());
  }
  // One that is in repair mode would seem to work and send nothing, ever.
  for (const StandbyDescriptor& descriptor : delta.unconnected) {
    MOSE_ASSIGN(Fd fd, standby_file(descriptor, tree));
    if (option(fd.get(), IPPROTO_TCP, TCP_REPAIR) != kRepairOff)
      return fail("the socket behind " + to_string(descriptor) + " is in repair mode in the standby");
  }
  return {};
}

Status StandbyConnections::release(const StandbyDelta& delta, std::span<const StandbyProcess> tree) {
  for (const StandbyRestingConnection& connection : delta.resting) {
    MOSE_ASSIGN(Fd fd, standby_file(connection.descriptor, tree));
    if (auto status = release_resting(fd.get(), connection); !status)
      return context("connection behind " + to_string(connection.descriptor), std::move(status).error());
  }
  for (size_t i = 0; i < sockets_.size(); ++i) {
    if (auto status = release_one(sockets_[i].get(), delta.connections[i]); !status)
      return context("connection behind " + to_string(delta.connections[i].descriptor), std::move(status).error());
    sockets_[i].reset();
  }
  sockets_.clear();
  return {};
}

}  // namespace mose::restore
