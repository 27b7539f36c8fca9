// SPDX-License-Identifier: MIT
#include "move/stream_socket.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "move/tls_session.h"

namespace mose::move {

StreamSocket::StreamSocket() = default;
StreamSocket::StreamSocket(Fd socket) : socket_(std::move(socket)) {}
StreamSocket::StreamSocket(Fd socket, std::unique_ptr<TlsSession> session)
    : socket_(std::move(socket)), session_(std::move(session)) {}
StreamSocket::StreamSocket(StreamSocket&& other) noexcept = default;
StreamSocket& StreamSocket::operator=(StreamSocket&& other) noexcept = default;
StreamSocket::~StreamSocket() = default;

Result<Wait> StreamSocket::handshake() { return session_ ? session_->handshake() : Wait::nothing; }

Result<Moved> StreamSocket::read(std::span<const iovec> parts) {
  if (session_) return session_->read(parts);
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
  for (;;) {
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (got > 0) return Moved{static_cast<size_t>(got)};
    if (got == 0) return fail_errno("peer has closed the connection", ECONNRESET);
    if (errno == EAGAIN) return Moved{0, Wait::to_read};
    if (errno != EINTR) return fail_errno("receive");
  }
}

Result<Moved> StreamSocket::write(std::span<const iovec> parts, bool more) {
  if (session_) return session_->write(parts);
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = std::min<size_t>(parts.size(), IOV_MAX);
  // More vectors follow than one call takes: no small segment in between.
  const int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (more || parts.size() > IOV_MAX ? MSG_MORE : 0);
  for (;;) {
    const ssize_t sent = ::sendmsg(socket_.get(), &message, flags);
    if (sent >= 0) return Moved{static_cast<size_t>(sent)};
    if (errno == EAGAIN) return Moved{0, Wait::to_write};
    if (errno != EINTR) return fail_errno("send");
  }
}

Result<bool> StreamSocket::flush() { return session_ ? session_->flush() : true; }
bool StreamSocket::has_pending() const { return session_ && session_->has_pending(); }
size_t StreamSocket::unsent() const { return session_ ? session_->unsent() : 0; }
std::string StreamSocket::tls_version() const { return session_ ? session_->version() : ""; }
std::string StreamSocket::tls_cipher() const { return session_ ? session_->cipher() : ""; }
const NodeCertificate* StreamSocket::peer() const { return session_ ? session_->peer() : nullptr; }

void StreamSocket::shut_down() const {
  if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
}

bool StreamSocket::resumed() const { return session_ && session_->resumed(); }

void StreamSocket::reset() {
  session_.reset();
  socket_.reset();
}

void skip_bytes(std::span<iovec>& parts, size_t bytes) {
  while (!parts.empty() && bytes >= parts.front().iov_len) {
    bytes -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (!parts.empty()) {
    parts.front().iov_base = static_cast<char*>(parts.front().iov_base) + bytes;
    parts.front().iov_len -= bytes;
  }
}

}  // namespace mose::move
