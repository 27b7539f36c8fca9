// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "move/node_certificate.h"

namespace mose::move {

class TlsSession;

// What a call that could not go on waits for, as of poll(2).
enum class Wait : uint8_t { nothing, to_read, to_write };

// What a call has moved. Zero bytes: it would have blocked, and `wait` says on what.
struct Moved {
  size_t bytes = 0;
  Wait wait = Wait::nothing;
};

// A connected stream to another node: a socket, and a TLS session on it unless the node speaks plain text (tls.h makes
// those). No call blocks, whatever the socket's own mode; after an error the stream is useless.
//
// One thread may read while another writes: under TLS both are short calls under one lock, plain they do not meet. What
// write() has taken may still lie here under TLS: it is out when flush() says so.
class StreamSocket {
 public:
  StreamSocket();
  StreamSocket(Fd socket);  // NOLINT(google-explicit-constructor): plain text is a socket and nothing else
  StreamSocket(Fd socket, std::unique_ptr<TlsSession> session);
  StreamSocket(StreamSocket&& other) noexcept;
  StreamSocket& operator=(StreamSocket&& other) noexcept;
  StreamSocket(const StreamSocket&) = delete;
  StreamSocket& operator=(const StreamSocket&) = delete;
  ~StreamSocket();

  // Goes on with the handshake; `nothing`: it is done, and the peer is who it should be. read() and write() do so by
  // themselves. Plain: always done.
  [[nodiscard]] Result<Wait> handshake();
  // Up to the first bytes of the parts that are there. ECONNRESET when the peer has closed.
  [[nodiscard]] Result<Moved> read(std::span<const iovec> parts);
  // `more`: other bytes follow at once, no small segment is needed.
  [[nodiscard]] Result<Moved> write(std::span<const iovec> parts, bool more = false);
  // True: the kernel has everything that was written.
  [[nodiscard]] Result<bool> flush();
  // Bytes can be read that poll(2) does not show any more.
  [[nodiscard]] bool has_pending() const;
  // Bytes that were written and that the kernel has not.
  [[nodiscard]] size_t unsent() const;

  // From any thread: calls under way and later ones fail.
  void shut_down() const;
  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] bool valid() const { return socket_.valid(); }
  explicit operator bool() const { return valid(); }
  void reset();
  [[nodiscard]] bool encrypted() const { return session_ != nullptr; }
  // Who the peer is, after the handshake; null: nobody knows, in plain text.
  [[nodiscard]] const NodeCertificate* peer() const;
  // OpenSSL's names of what was agreed on, after the handshake; empty: plain text.
  [[nodiscard]] std::string tls_version() const;
  [[nodiscard]] std::string tls_cipher() const;
  // The handshake was the short one of a later connection.
  [[nodiscard]] bool resumed() const;

 private:
  Fd socket_;
  std::unique_ptr<TlsSession> session_;
};

// The first part moved on by `bytes`, and those that are done left out.
void skip_bytes(std::span<iovec>& parts, size_t bytes);

}  // namespace mose::move
