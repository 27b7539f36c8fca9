// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "move/node_certificate.h"
#include "move/stream_socket.h"

namespace mose::move {

// Where the identity of a node lies, all PEM.
struct TlsFiles {
  std::string certificate;  // of this node, its intermediates behind it
  std::string key;          // of it; readable by its owner alone, without a pass phrase
  std::string authorities;  // whose certificates are believed
  std::string revoked = {};  // those that are not, although an authority has issued them (revocation.h); empty: no list
};

// Who this node is and whom it believes: TLS 1.3, a certificate on both ends, checked on every connection. Shared by all
// connections and threads.
//
// Life: load(); connect() and accept() make sessions and read the files anew when they have changed. New ones that
// cannot be used are told once, and the old ones go on: here, but not where another process is to read them.
class Tls {
 public:
  // A certificate and its key are two files: while they are replaced they do not fit each other. Longer than this it takes no copy.
  static constexpr Nanoseconds kReplaceMax = std::chrono::seconds(2);

  [[nodiscard]] static Result<std::shared_ptr<Tls>> load(TlsFiles files);
  ~Tls();

  // Takes a connected socket; nothing has been said yet. The peer's certificate must be of node `peer`. Later connections
  // of the same peer resume what the first has agreed on, until a certificate that it was believed by has ended.
  [[nodiscard]] Result<StreamSocket> connect(Fd socket, const std::string& peer);
  // Any node whose certificate is believed: who it is stands in StreamSocket::peer().
  [[nodiscard]] Result<StreamSocket> accept(Fd socket);
  // Of this node, as its files are now.
  [[nodiscard]] NodeCertificate own();
  // Why the files cannot be used as they are now, where they have been like that for longer than kReplaceMax.
  [[nodiscard]] Status check_files();
  [[nodiscard]] const TlsFiles& files() const { return files_; }

 private:
  struct Contexts;
  explicit Tls(TlsFiles files) : files_(std::move(files)) {}
  [[nodiscard]] std::shared_ptr<Contexts> current();

  const TlsFiles files_;
  mutable std::mutex mutex_;
  std::shared_ptr<Contexts> contexts_;
  struct Unusable {
    Timestamp read;  // last
    Error reason;
  };
  // What the files looked like when they were read last; reading them is only worth it when that has changed.
  struct Look {
    std::string text;
    int64_t changed_unix_s = 0;  // the last of them
  };
  static Look look_of(const TlsFiles& files);
  std::optional<Unusable> unusable_;
  Look seen_;
};

// Blocks at most `bound` for each of connection and handshake. Without `tls` the stream is plain text. Errors name the
// endpoint.
[[nodiscard]] Result<StreamSocket> connect_stream(const std::string& endpoint, const std::shared_ptr<Tls>& tls,
                                                  const std::string& peer, Nanoseconds bound);

}  // namespace mose::move
