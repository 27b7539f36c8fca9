// SPDX-License-Identifier: MIT
#include "move/revocation.h"

#include <openssl/pem.h>

#include <algorithm>
#include <ctime>

#include "base/fd.h"
#include "base/log.h"
#include "move/tls_session.h"

namespace mose::move {
namespace {

constexpr size_t kListFileMax = 8u << 20;
constexpr int kListsMax = 64;

bool is_revoked(X509_STORE_CTX* store, X509* certificate) {
  STACK_OF(X509_CRL)* lists = X509_STORE_CTX_get1_crls(store, X509_get_issuer_name(certificate));
  bool found = false;
  for (int i = 0; i < sk_X509_CRL_num(lists) && !found; ++i) {
    X509_REVOKED* entry = nullptr;
    found = X509_CRL_get0_by_cert(sk_X509_CRL_value(lists, i), &entry, certificate) == 1;
  }
  sk_X509_CRL_pop_free(lists, X509_CRL_free);
  return found;
}

Status check_signature(X509_CRL* list, const std::string& path, const std::vector<X509Ptr>& authorities) {
  const bool known = std::ranges::any_of(authorities, [&](const X509Ptr& authority) {
    return X509_NAME_cmp(X509_get_subject_name(authority.get()), X509_CRL_get_issuer(list)) == 0 &&
           X509_CRL_verify(list, X509_get0_pubkey(authority.get())) == 1;
  });
  ERR_clear_error();
  if (known) return {};
  return fail("the list of revoked certificates " + path + " is signed by none of tls.authorities");
}

}  // namespace

// OpenSSL's own check of lists would want one of every authority, none of them older than it says.
int judge_certificate(int accepted, X509_STORE_CTX* store) {
  X509* certificate = X509_STORE_CTX_get_current_cert(store);
  if (accepted == 1 && certificate != nullptr && is_revoked(store, certificate)) {
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REVOKED);
    accepted = 0;
  }
  if (accepted == 1) return 1;
  auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  if (ssl != nullptr) static_cast<TlsSession*>(SSL_get_app_data(ssl))->on_refused_certificate(X509_STORE_CTX_get_error_depth(store));
  return 0;
}

Status refuse_revoked(SSL_CTX* context, const std::string& path, const std::vector<X509Ptr>& authorities) {
  auto pem = read_file(path, kListFileMax);
  if (!pem) return mose::context("the list of revoked certificates", pem.error());
  BioPtr bio = bio_of(*pem);
  int count = 0;
  for (;; ++count) {
    X509CrlPtr list(PEM_read_bio_X509_CRL(bio.get(), nullptr, nullptr, nullptr));
    if (!list && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE) break;  // the end of the file
    if (!list) return fail_openssl("the list of revoked certificates " + path);
    if (count == kListsMax) return fail("the list of revoked certificates " + path + " holds more than " + std::to_string(kListsMax));
    MOSE_TRY(check_signature(list.get(), path, authorities));
    const ASN1_TIME* next = X509_CRL_get0_nextUpdate(list.get());
    if (next != nullptr && X509_cmp_current_time(next) < 0) log::warn("a list of revoked certificates should have been replaced by now", {{"file", path}});
    if (X509_STORE_add_crl(SSL_CTX_get_cert_store(context), list.get()) != 1) return fail_openssl("the list of revoked certificates " + path);
  }
  ERR_clear_error();
  if (count == 0) return fail("the list of revoked certificates " + path + " holds none in PEM (X509 CRL)");
  return {};
}

}  // namespace mose::move
