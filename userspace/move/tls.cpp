// SPDX-License-Identifier: MIT
#include "move/tls.h"

#include <openssl/pem.h>
#include <poll.h>
#include <sys/stat.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ctime>

#include "base/log.h"
#include "kernel/socket.h"
#include "move/key_file.h"
#include "move/pem.h"
#include "move/resumption.h"
#include "move/revocation.h"
#include "move/tls_session.h"

namespace mose::move {
namespace {

constexpr size_t kPemFileMax = 1u << 20;
constexpr size_t kAuthoritiesMax = 64;
constexpr int kChainMax = 8;  // certificates behind that of a node
constexpr Nanoseconds kReadAgain = std::chrono::seconds(1);

// Without instructions for it AES is three times slower than ChaCha20.
bool cpu_has_aes() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("aes") != 0;
#elif defined(__aarch64__)
  constexpr unsigned long kHwcapAes = 1ul << 3;
  return (getauxval(AT_HWCAP) & kHwcapAes) != 0;
#else
  return false;
#endif
}

Status use_certificate(SSL_CTX* context, const std::string& path, NodeCertificate& own) {
  MOSE_ASSIGN(std::string pem, read_file(path, kPemFileMax));
  const std::string what = "the certificate " + path;
  auto chain = read_certificates(pem, 1 + kChainMax);
  if (!chain) return mose::context(what, chain.error());
  if (chain->empty()) return fail(what + " holds none in PEM");
  X509* certificate = chain->front().get();
  if (SSL_CTX_use_certificate(context, certificate) != 1) return fail_openssl(what);
  auto read = read_certificate(*certificate);
  if (!read) return mose::context(what, read.error());
  own = std::move(*read);
  for (size_t i = 1; i < chain->size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, (*chain)[i].get()) != 1) return fail_openssl("the certificates behind that of " + path);
  }
  return {};
}

Status use_key(SSL_CTX* context, const TlsFiles& files) {
  MOSE_ASSIGN(std::string pem, read_key_file(files.key));
  BioPtr bio = bio_of(pem);
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_pass_phrase, nullptr));
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key) return fail_openssl("the key " + files.key + " cannot be read (PEM without a pass phrase is wanted)");
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1 || SSL_CTX_check_private_key(context) != 1) {
    ERR_clear_error();
    return fail("the key " + files.key + " is not that of the certificate " + files.certificate);
  }
  return {};
}

Result<std::vector<X509Ptr>> believe(SSL_CTX* context, const std::string& path) {
  MOSE_ASSIGN(std::string pem, read_file(path, kPemFileMax));
  const std::string what = "the authorities " + path;
  auto authorities = read_certificates(pem, kAuthoritiesMax);
  if (!authorities) return mose::context(what, authorities.error());
  if (authorities->empty()) return fail(what + " hold no certificate in PEM");
  for (const X509Ptr& authority : *authorities) {
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get()) != 1) return fail_openssl(what);
  }
  return authorities;
}

int new_ticket(SSL* ssl, SSL_SESSION* ticket) {
  if (SSL_is_server(ssl) != 0) return 0;
  static_cast<TlsSession*>(SSL_get_app_data(ssl))->on_ticket(SslSessionPtr(ticket));
  return 1;  // the reference is ours
}

Result<SslCtxPtr> make_context(const TlsFiles& files, NodeCertificate& own) {
  SslCtxPtr context(SSL_CTX_new(TLS_method()));
  SSL_CTX* raw = context.get();
  if (!context || SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1) return fail_openssl("TLS 1.3 cannot be used");
  const char* ciphers = cpu_has_aes() ? "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
                                      : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
  if (SSL_CTX_set_ciphersuites(raw, ciphers) != 1) return fail_openssl("TLS ciphers");
  // No others: the large groups cost milliseconds of the event loop for whoever asks, before anybody is known.
  if (SSL_CTX_set1_groups_list(raw, "X25519:P-256") != 1) return fail_openssl("TLS groups");
  SSL_CTX_set_options(raw, SSL_OP_CIPHER_SERVER_PREFERENCE);
  MOSE_TRY(use_certificate(raw, files.certificate, own));
  MOSE_TRY(use_key(raw, files));
  MOSE_ASSIGN(auto authorities, believe(raw, files.authorities));
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, judge_certificate);
  if (!files.revoked.empty()) MOSE_TRY(refuse_revoked(raw, files.revoked, authorities));
  SSL_CTX_set_verify_depth(raw, kChainMax);
  SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  // Tickets hold all that a later connection needs; their key goes with this context, so that with new authorities, a new
  // certificate or a new list of revoked ones everybody is asked anew.
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(raw, new_ticket);
  MOSE_TRY(bound_tickets(raw));
  constexpr unsigned char kPurpose[] = "mose";
  if (SSL_CTX_set_session_id_context(raw, kPurpose, sizeof kPurpose) != 1) return fail_openssl("TLS session id context");
  return context;
}

}  // namespace

struct Tls::Contexts {
  SslCtxPtr context;
  NodeCertificate own;
  std::mutex mutex;
  std::map<std::string, TlsTicket> tickets;  // of connections that were made from here, by peer
};

Tls::~Tls() = default;

Tls::Look Tls::look_of(const TlsFiles& files) {
  Look look;
  for (const std::string* path : {&files.certificate, &files.key, &files.authorities, &files.revoked}) {
    if (path->empty()) continue;
    struct stat status{};
    if (stat(path->c_str(), &status) != 0) status = {};
    look.text += std::to_string(status.st_ino) + "." + std::to_string(status.st_size) + "." + std::to_string(status.st_mtim.tv_sec) + "." +
                 std::to_string(status.st_mtim.tv_nsec) + "." + std::to_string(status.st_ctim.tv_sec) + "." + std::to_string(status.st_ctim.tv_nsec) +
                 "." + std::to_string(status.st_uid) + "." + std::to_string(status.st_mode) + " ";
    look.changed_unix_s = std::max<int64_t>(look.changed_unix_s, status.st_ctim.tv_sec);
  }
  return look;
}

Result<std::shared_ptr<Tls>> Tls::load(TlsFiles files) {
  std::shared_ptr<Tls> tls(new Tls(std::move(files)));
  tls->seen_ = look_of(tls->files_);
  auto contexts = std::make_shared<Contexts>();
  MOSE_ASSIGN(contexts->context, make_context(tls->files_, contexts->own));
  tls->contexts_ = std::move(contexts);
  return tls;
}

std::shared_ptr<Tls::Contexts> Tls::current() {
  std::lock_guard lock(mutex_);
  Look look = look_of(files_);
  const bool changed = look.text != seen_.text, again = unusable_ && now() - unusable_->read >= kReadAgain;
  if (!changed && !again) return contexts_;
  seen_ = std::move(look);
  auto contexts = std::make_shared<Contexts>();
  auto made = make_context(files_, contexts->own);
  if (!made) {
    // What was wrong may be gone without a change of the files: no descriptors, or the pair is being copied.
    if (changed) log::warn("the changed certificates cannot be used; the old ones go on", {{"reason", made.error().what}});
    unusable_ = {now(), made.error()};
    return contexts_;
  }
  unusable_.reset();
  contexts->context = std::move(*made);
  contexts_ = std::move(contexts);
  log::info("certificates read anew", {{"certificate", files_.certificate}, {"valid_until", format_unix_time(contexts_->own.ends_unix_s)}});
  return contexts_;
}

Result<StreamSocket> Tls::connect(Fd socket, const std::string& peer) {
  std::shared_ptr<Contexts> contexts = current();
  TlsSession::Role role{true, peer, [contexts, peer](TlsTicket ticket) {
                          std::lock_guard lock(contexts->mutex);
                          contexts->tickets[peer] = std::move(ticket);
                        }};
  TlsTicket resume;
  {
    // Once: a ticket that is used again would show whoever listens that it is the same node.
    std::lock_guard lock(contexts->mutex);
    if (auto kept = contexts->tickets.extract(peer)) resume = std::move(kept.mapped());
  }
  if (resume.session && std::time(nullptr) > resume.believed_until_s) {
    log::info("a peer is asked for its certificate anew: one that an earlier connection was believed by has ended",
              {{"node", peer}, {"ended", format_unix_time(resume.believed_until_s)}});
    resume = {};
  }
  MOSE_ASSIGN(auto session, TlsSession::create(contexts->context.get(), socket.get(), std::move(role), resume));
  return StreamSocket(std::move(socket), std::move(session));
}

Result<StreamSocket> Tls::accept(Fd socket) {
  MOSE_ASSIGN(auto session, TlsSession::create(current()->context.get(), socket.get(), {}, {}));
  return StreamSocket(std::move(socket), std::move(session));
}

NodeCertificate Tls::own() { return current()->own; }

Status Tls::check_files() {
  static_cast<void>(current());
  std::lock_guard lock(mutex_);
  // By the clock of the files: nobody may have looked for days.
  const bool being_replaced = std::time(nullptr) - seen_.changed_unix_s <= std::chrono::ceil<std::chrono::seconds>(kReplaceMax).count();
  if (!unusable_ || being_replaced) return {};
  return std::unexpected(unusable_->reason);
}

Result<StreamSocket> connect_stream(const std::string& endpoint, const std::shared_ptr<Tls>& tls, const std::string& peer,
                                    Nanoseconds bound) {
  MOSE_ASSIGN(Fd socket, tcp_connect(endpoint, bound));
  if (!tls) return StreamSocket(std::move(socket));
  MOSE_ASSIGN(StreamSocket stream, tls->connect(std::move(socket), peer));
  const Timestamp end = now() + bound;
  for (;;) {
    auto wait = stream.handshake();
    if (!wait) return context(endpoint, wait.error());
    if (*wait == Wait::nothing) return stream;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - now()).count();
    pollfd poll_fd{stream.fd(), static_cast<short>(*wait == Wait::to_read ? POLLIN : POLLOUT), 0};
    const int ready = ::poll(&poll_fd, 1, static_cast<int>(std::clamp<int64_t>(left, 0, INT_MAX)));
    if (ready == 0) return context(endpoint, Error{ETIMEDOUT, "no answer to the TLS handshake"});
    if (ready < 0 && errno != EINTR) return fail_errno("poll");
  }
}

}  // namespace mose::move
