// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "move/node_certificate.h"
#include "move/openssl.h"
#include "move/stream_socket.h"

namespace mose::move {

// For the next connection to the same peer.
struct TlsTicket {
  SslSessionPtr session;
  int64_t believed_until_s = 0;  // resumption.h
};

// What OpenSSL keeps of a connection, and the buffers between it and the socket: several records travel by one system
// call, and a call moves at most kCallBytes, because the thread of the other direction waits for it.
class TlsSession {
 public:
  static constexpr size_t kCallBytes = 64u << 10;

  struct Role {
    bool connects = false;
    std::string peer;  // connecting: the name that the peer's certificate must have
    std::function<void(TlsTicket)> on_ticket;  // connecting: one for the next connection has come
  };

  // The socket is borrowed and must outlive the session. `resume`: of an earlier connection to the same peer, or empty.
  [[nodiscard]] static Result<std::unique_ptr<TlsSession>> create(SSL_CTX* context, int socket, Role role, const TlsTicket& resume);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  [[nodiscard]] Result<Wait> handshake();
  [[nodiscard]] Result<Moved> read(std::span<const iovec> parts);
  [[nodiscard]] Result<Moved> write(std::span<const iovec> parts);
  [[nodiscard]] Result<bool> flush();
  [[nodiscard]] bool has_pending() const;
  [[nodiscard]] size_t unsent() const;
  [[nodiscard]] const NodeCertificate* peer() const { return shaken_ ? &peer_ : nullptr; }
  [[nodiscard]] bool resumed() const;
  [[nodiscard]] std::string version() const;
  [[nodiscard]] std::string cipher() const;

  // Of OpenSSL's callbacks only.
  void on_ticket(SslSessionPtr ticket);
  void on_refused_certificate(int depth) { refused_depth_ = depth; }
  int take_input(char* to, int size);
  int put_output(const char* from, int size);

 private:
  // A queue of bytes that gives back what it does not need.
  struct Buffer {
    std::vector<char> bytes;
    size_t begin = 0, end = 0;
    [[nodiscard]] size_t size() const { return end - begin; }
  };

  TlsSession(int socket, Role role) : socket_(socket), role_(std::move(role)) {}
  [[nodiscard]] Result<Wait> shake();
  [[nodiscard]] Status check_peer();
  [[nodiscard]] Result<bool> push_output();
  [[nodiscard]] bool fill_input();
  [[nodiscard]] std::unexpected<Error> broken(const char* doing, int result);
  [[nodiscard]] Error reason_of(const char* doing, int result);
  [[nodiscard]] Result<size_t> write_record(std::span<const iovec> parts, size_t skip);

  const int socket_;
  const Role role_;
  mutable std::mutex mutex_;
  SslPtr ssl_;
  Buffer in_, out_;
  std::array<char, 16384> gathered_;  // small parts on their way into one record
  std::optional<Error> failure_;      // the first: what comes after it is only its consequence
  NodeCertificate peer_;
  int refused_depth_ = 0;         // of the chain; 0: the peer's own
  int64_t believed_until_s_ = 0;  // that of the ticket where one was used
  bool shaken_ = false;
  bool first_bytes_seen_ = false, speaks_plain_text_ = false;
  bool closed_ = false;  // the peer's end
  int socket_error_ = 0;
  uint64_t written_with_key_ = 0;
};

}  // namespace mose::move
