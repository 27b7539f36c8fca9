// SPDX-License-Identifier: MIT
#include "move/tls_session.h"

#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "mose/wire/frame.h"
#include "move/resumption.h"

namespace mose::move {
namespace {

// A longer record does not exist.
constexpr size_t kRecordBytes = 16384;
constexpr size_t kInputFirst = 4u << 10, kInputMax = 128u << 10;
// Beyond that write() says that it would block. The rest is room for a record under way and for what the handshake says.
constexpr size_t kOutputMax = 64u << 10, kOutputLimit = kOutputMax + (48u << 10);
// AES-GCM keeps its promise for 2^24.5 records of one key, some 380 GB (RFC 8446, 5.5); OpenSSL does not count for us.
constexpr uint64_t kKeyBytesMax = 64ull << 30;

int bio_read(BIO* bio, char* to, int size) {
  BIO_clear_retry_flags(bio);
  const int got = static_cast<TlsSession*>(BIO_get_data(bio))->take_input(to, size);
  if (got < 0) BIO_set_retry_read(bio);
  return got;
}

int bio_write(BIO* bio, const char* from, int size) {
  BIO_clear_retry_flags(bio);
  const int put = static_cast<TlsSession*>(BIO_get_data(bio))->put_output(from, size);
  if (put < 0) BIO_set_retry_write(bio);
  return put;
}

long bio_control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

const BIO_METHOD* stream_method() {
  static const BIO_METHOD* method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mose stream");
    if (made == nullptr) return made;
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  return method;
}

// What the peer's word for ending the connection means for whoever reads the log here.
const char* alert_sentence(int reason) {
  switch (reason) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return "the peer wants a certificate and this node has shown none";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
      return "the peer says that this node's certificate has expired, or its authority: issue a new one (mose pki rotate)";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
      return "the peer says that this node's certificate has been revoked";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
      return "the peer does not know the authority of this node's certificate: compare tls.authorities of both nodes";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
      return "the peer does not accept this node's certificate: its log says why";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return "the peer has shown no certificate";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_NO_PROTOCOLS_AVAILABLE:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
      return "the peer speaks no TLS 1.3";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
      return "the peer does not speak TLS";
    default:
      return nullptr;
  }
}

std::string verify_sentence(long result, int depth) {
  if (result == X509_V_ERR_CERT_HAS_EXPIRED && depth > 0) {
    return "the authority of the peer's certificate has expired: make a new one in another directory (mose pki init --dir), and issue certificates of it";
  }
  switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return "the peer's certificate has expired: issue a new one there (mose pki rotate)";
    case X509_V_ERR_CERT_REVOKED:
      return "the peer's certificate has been revoked (tls.revoked): issue a new one for that node, if it is to be believed again";
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return "the peer's certificate is not valid yet: compare the clocks of both nodes";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return "the peer's certificate is of no authority that this node knows (tls.authorities)";
    default:
      return std::string("the peer's certificate is not accepted: ") + X509_verify_cert_error_string(result);
  }
}

}  // namespace

Result<std::unique_ptr<TlsSession>> TlsSession::create(SSL_CTX* context, int socket, Role role, const TlsTicket& resume) {
  std::unique_ptr<TlsSession> session(new TlsSession(socket, std::move(role)));
  session->ssl_.reset(SSL_new(context));
  BIO* bio = stream_method() == nullptr ? nullptr : BIO_new(stream_method());
  if (!session->ssl_ || bio == nullptr) return fail_openssl("a TLS session cannot be made");
  BIO_set_data(bio, session.get());
  BIO_set_init(bio, 1);
  SSL* ssl = session->ssl_.get();
  SSL_set_bio(ssl, bio, bio);  // the session's from now on
  SSL_set_app_data(ssl, session.get());
  if (!session->role_.connects) {
    SSL_set_accept_state(ssl);
    return session;
  }
  SSL_set_connect_state(ssl);
  session->believed_until_s_ = resume.believed_until_s;
  if (resume.session && SSL_set_session(ssl, resume.session.get()) != 1) ERR_clear_error();  // a full handshake then
  return session;
}

// Without a farewell: frames say themselves where a stream ends. Marked as said, or OpenSSL would throw away the ticket.
TlsSession::~TlsSession() {
  if (ssl_) SSL_set_shutdown(ssl_.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}

void TlsSession::on_ticket(SslSessionPtr ticket) {
  if (role_.on_ticket) role_.on_ticket({std::move(ticket), believed_until_s_});
}

bool TlsSession::resumed() const {
  std::lock_guard lock(mutex_);
  return SSL_session_reused(ssl_.get()) == 1;
}

std::string TlsSession::version() const {
  std::lock_guard lock(mutex_);
  return shaken_ ? SSL_get_version(ssl_.get()) : "";
}

std::string TlsSession::cipher() const {
  std::lock_guard lock(mutex_);
  return shaken_ ? SSL_get_cipher_name(ssl_.get()) : "";
}

// ---- between OpenSSL and the socket; under the lock of the call that led here --------------------------------------

// True: there is something in in_.
bool TlsSession::fill_input() {
  if (in_.size() > 0) return true;
  if (closed_ || socket_error_ != 0) return false;
  // A connection that says little takes little; one that fills its buffer gets a larger one.
  if (in_.bytes.empty()) in_.bytes.resize(kInputFirst);
  else if (in_.end == in_.bytes.size() && in_.bytes.size() < kInputMax) in_.bytes.resize(kInputMax);
  in_.begin = in_.end = 0;
  ssize_t got;
  do {
    got = ::recv(socket_, in_.bytes.data(), in_.bytes.size(), MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got == 0) closed_ = true;
  if (got < 0 && errno != EAGAIN) socket_error_ = errno;
  if (got <= 0) return false;
  in_.end = static_cast<size_t>(got);
  if (!std::exchange(first_bytes_seen_, true)) {
    const uint32_t magic = wire::kMagic;
    speaks_plain_text_ = memcmp(in_.bytes.data(), &magic, std::min(in_.end, sizeof magic)) == 0;
  }
  return true;
}

// -1: nothing is there now. 0: nothing will come any more.
int TlsSession::take_input(char* to, int size) {
  if (!fill_input()) return closed_ || socket_error_ != 0 ? 0 : -1;
  const size_t taken = std::min<size_t>(in_.size(), static_cast<size_t>(size));
  memcpy(to, in_.bytes.data() + in_.begin, taken);
  in_.begin += taken;
  return static_cast<int>(taken);
}

// -1: there is no room. A peer that makes OpenSSL answer again and again and reads none of it gets no further.
int TlsSession::put_output(const char* from, int size) {
  const auto bytes = static_cast<size_t>(size);
  if (out_.size() + bytes > kOutputLimit) return -1;
  if (out_.begin == out_.end) out_.begin = out_.end = 0;
  if (out_.end + bytes > out_.bytes.size()) {
    memmove(out_.bytes.data(), out_.bytes.data() + out_.begin, out_.size());
    out_.end -= std::exchange(out_.begin, 0);
    out_.bytes.resize(std::max(out_.end + bytes, out_.bytes.size()));
  }
  memcpy(out_.bytes.data() + out_.end, from, bytes);
  out_.end += bytes;
  return size;
}

Result<bool> TlsSession::push_output() {
  while (out_.size() > 0) {
    const ssize_t sent = ::send(socket_, out_.bytes.data() + out_.begin, out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return false;
    if (sent < 0) return fail_errno("send");
    out_.begin += static_cast<size_t>(sent);
  }
  return true;
}

// ---- errors --------------------------------------------------------------------------------------------------------

Error TlsSession::reason_of(const char* doing, int result) {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  if (speaks_plain_text_) {
    return {EPROTONOSUPPORT, "the peer speaks plain text and this node TLS: either both have [tls] with certificates or both plain_text = true"};
  }
  if (socket_error_ != 0) return fail_errno(doing, socket_error_).error();
  if (closed_ && !shaken_) return fail_errno("peer has closed the connection during the TLS handshake", ECONNRESET).error();
  if (closed_) return fail_errno("peer has closed the connection", ECONNRESET).error();
  const int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;  // other parts count from the same numbers
  const long verified = SSL_get_verify_result(ssl_.get());
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) return {EACCES, verify_sentence(verified, refused_depth_)};
  if (const char* sentence = alert_sentence(reason)) return {EACCES, sentence};
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  return {EPROTO, std::string(doing) + " under TLS: " + (text != nullptr ? text : "error " + std::to_string(result))};
}

std::unexpected<Error> TlsSession::broken(const char* doing, int result) {
  if (!failure_) failure_ = reason_of(doing, result);
  return std::unexpected(*failure_);
}

// ---- handshake -----------------------------------------------------------------------------------------------------

Result<Wait> TlsSession::handshake() {
  std::lock_guard lock(mutex_);
  return shake();
}

Result<Wait> TlsSession::shake() {
  if (failure_) return std::unexpected(*failure_);
  if (shaken_) return Wait::nothing;
  ERR_clear_error();
  const int done = SSL_do_handshake(ssl_.get());
  const int error = done == 1 ? SSL_ERROR_NONE : SSL_get_error(ssl_.get(), done);
  // To who speaks plain text an alert of TLS says nothing.
  if (speaks_plain_text_) out_.begin = out_.end = 0;
  auto pushed = push_output();
  const bool waits = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
  if (done != 1 && !waits) return broken("handshake", error);
  if (!pushed) {
    failure_ = pushed.error();
    return std::unexpected(*failure_);
  }
  if (waits) return *pushed && error == SSL_ERROR_WANT_READ ? Wait::to_read : Wait::to_write;
  if (auto checked = check_peer(); !checked) {
    failure_ = checked.error();
    return std::unexpected(*failure_);
  }
  shaken_ = true;
  return Wait::nothing;
}

// Also of a connection that was resumed, which OpenSSL does not verify once more: its certificate is that of the first
// one, and may have expired since. Those behind it are in the time that a ticket carries (resumption.h).
Status TlsSession::check_peer() {
  const X509* certificate = SSL_get0_peer_certificate(ssl_.get());
  if (certificate == nullptr) return fail_errno("the peer has shown no certificate", EACCES);
  if (const long verified = SSL_get_verify_result(ssl_.get()); verified != X509_V_OK) {
    return std::unexpected(Error{EACCES, verify_sentence(verified, refused_depth_)});
  }
  auto read = read_certificate(*certificate);
  if (!read) return std::unexpected(Error{EACCES, "the peer's certificate: " + read.error().what});
  peer_ = std::move(*read);
  if (SSL_session_reused(ssl_.get()) != 1) believed_until_s_ = believed_until(ssl_.get());
  if (auto timely = peer_.check_time(::time(nullptr)); !timely) return std::unexpected(Error{EACCES, "the peer: " + timely.error().what});
  if (!role_.connects || role_.peer.empty() || peer_.is_of(role_.peer)) return {};
  return std::unexpected(Error{EACCES, "the peer's certificate is of " + peer_.whose() + ", not of node " + role_.peer + ": check its address in [peers." + role_.peer + "]"});
}

// ---- bytes ---------------------------------------------------------------------------------------------------------

Result<Moved> TlsSession::read(std::span<const iovec> parts) {
  std::lock_guard lock(mutex_);
  MOSE_ASSIGN(Wait wait, shake());
  if (wait != Wait::nothing) return Moved{0, wait};
  ERR_clear_error();
  Moved moved;
  for (const iovec& part : parts) {
    for (size_t at = 0; at < part.iov_len && moved.bytes < kCallBytes;) {
      size_t got = 0;
      const size_t room = std::min(part.iov_len - at, kCallBytes - moved.bytes);
      if (const int done = SSL_read_ex(ssl_.get(), static_cast<char*>(part.iov_base) + at, room, &got); done == 1) {
        at += got;
        moved.bytes += got;
        continue;
      }
      const int error = SSL_get_error(ssl_.get(), 0);
      moved.wait = error == SSL_ERROR_WANT_WRITE ? Wait::to_write : Wait::to_read;
      const bool waits = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE;
      // A farewell that others may send ends the stream as its end does.
      if (error == SSL_ERROR_ZERO_RETURN) closed_ = true;
      std::unexpected<Error> failed = waits ? std::unexpected(Error{}) : broken("receive", error);
      if (!waits && moved.bytes == 0) return failed;
      // What OpenSSL may have had to answer. An error shows at the next write.
      static_cast<void>(push_output());
      return moved;
    }
  }
  return moved;
}

// One record of the parts, of which the first `skip` bytes are done. Small parts are put together: a record costs 22
// bytes and a start of the cipher.
Result<size_t> TlsSession::write_record(std::span<const iovec> parts, size_t skip) {
  while (!parts.empty() && skip >= parts.front().iov_len) {
    skip -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  const char* data = static_cast<const char*>(parts.front().iov_base) + skip;
  size_t size = std::min(parts.front().iov_len - skip, kRecordBytes);
  if (size < kRecordBytes && parts.size() > 1) {
    memcpy(gathered_.data(), data, size);
    for (const iovec& part : parts.subspan(1)) {
      const size_t more = std::min(part.iov_len, kRecordBytes - size);
      if (more > 0) memcpy(gathered_.data() + size, part.iov_base, more);
      size += more;
      if (size == kRecordBytes) break;
    }
    data = gathered_.data();
  }
  if (written_with_key_ > kKeyBytesMax && SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1) written_with_key_ = 0;
  size_t written = 0;
  if (const int done = SSL_write_ex(ssl_.get(), data, size, &written); done != 1) {
    return broken("send", SSL_get_error(ssl_.get(), 0));
  }
  written_with_key_ += written;
  return written;
}

Result<Moved> TlsSession::write(std::span<const iovec> parts) {
  std::lock_guard lock(mutex_);
  MOSE_ASSIGN(Wait wait, shake());
  if (wait != Wait::nothing) return Moved{0, wait};
  ERR_clear_error();
  size_t left = 0;
  for (const iovec& part : parts) left += part.iov_len;
  left = std::min(left, kCallBytes);
  if (out_.size() >= kOutputMax) MOSE_TRY(push_output());
  if (out_.size() >= kOutputMax) return Moved{0, Wait::to_write};
  Moved moved;
  while (left > moved.bytes && out_.size() < kOutputMax) {
    MOSE_ASSIGN(size_t written, write_record(parts, moved.bytes));
    moved.bytes += written;
  }
  MOSE_TRY(push_output());
  return moved;
}

Result<bool> TlsSession::flush() {
  std::lock_guard lock(mutex_);
  if (failure_) return std::unexpected(*failure_);
  return push_output();
}

bool TlsSession::has_pending() const {
  std::lock_guard lock(mutex_);
  return in_.size() > 0 || SSL_has_pending(ssl_.get()) == 1;
}

size_t TlsSession::unsent() const {
  std::lock_guard lock(mutex_);
  return out_.size();
}

}  // namespace mose::move
