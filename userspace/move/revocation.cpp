// SPDX-License-Identifier: MIT
#include "move/revocation.h"

#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>

#include "base/fd.h"
#include "base/log.h"
#include "move/node_certificate.h"
#include "move/pem.h"
#include "move/tls_session.h"

namespace mose::move {
namespace {

constexpr size_t kListFileMax = 8u << 20;

using KeyIdPtr = std::unique_ptr<AUTHORITY_KEYID, OpensslFree<AUTHORITY_KEYID_free>>;

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

// Whether this authority's key should have signed the list. One that does not say whose key it was may be damaged: its name counts then.
bool may_be_of(const X509_CRL* list, X509* authority) {
  const KeyIdPtr named(static_cast<AUTHORITY_KEYID*>(X509_CRL_get_ext_d2i(list, NID_authority_key_identifier, nullptr, nullptr)));
  const ASN1_OCTET_STRING* own = X509_get0_subject_key_id(authority);
  return !named || named->keyid == nullptr || own == nullptr || ASN1_OCTET_STRING_cmp(named->keyid, own) == 0;
}

// False: it is of an authority that is none of these, which may be called as one of them is. An error: one of these should have
// signed it, and has not.
Result<bool> is_signed_by(X509_CRL* list, const std::vector<X509Ptr>& authorities) {
  auto called_so = [&](const X509Ptr& authority) { return X509_NAME_cmp(X509_get_subject_name(authority.get()), X509_CRL_get_issuer(list)) == 0; };
  const bool verified = std::ranges::any_of(authorities, [&](const X509Ptr& authority) {
    return called_so(authority) && X509_CRL_verify(list, X509_get0_pubkey(authority.get())) == 1;
  });
  ERR_clear_error();
  if (verified) return true;
  const bool wrong = std::ranges::any_of(authorities, [&](const X509Ptr& authority) { return called_so(authority) && may_be_of(list, authority.get()); });
  if (wrong) return fail("its signature is not that of its authority, " + common_name(X509_CRL_get_issuer(list)));
  return false;
}

// Its authority may have been taken away before its list was, and is believed no more, which shuts out who stands in the list as well.
void tell_ignored(const X509_CRL* list, const std::string& path) {
  log::warn("a list of revoked certificates is ignored: it is signed by none of tls.authorities",
            {{"file", path}, {"authority", common_name(X509_CRL_get_issuer(list))}});
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
  const std::string what = "the list of revoked certificates " + path;
  auto lists = read_lists(*pem, kListsMax);
  if (!lists) return mose::context(what, lists.error());
  if (lists->empty()) return fail(what + " holds none in PEM (X509 CRL)");
  for (const X509CrlPtr& list : *lists) {
    auto known = is_signed_by(list.get(), authorities);
    if (!known) return mose::context(what, known.error());
    if (!*known) {
      tell_ignored(list.get(), path);
      continue;
    }
    const ASN1_TIME* next = X509_CRL_get0_nextUpdate(list.get());
    if (next != nullptr && X509_cmp_current_time(next) < 0) log::warn("a list of revoked certificates should have been replaced by now", {{"file", path}});
    if (X509_STORE_add_crl(SSL_CTX_get_cert_store(context), list.get()) != 1) return fail_openssl(what);
  }
  return {};
}

}  // namespace mose::move
