// SPDX-License-Identifier: MIT
#include "move/node_certificate.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <strings.h>

#include <algorithm>
#include <ctime>

#include "move/openssl.h"
#include "move/pem.h"

namespace mose::move {
namespace {

using NamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslFree<GENERAL_NAMES_free>>;

std::string text_of(const ASN1_STRING* string) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(string)), static_cast<size_t>(ASN1_STRING_length(string))};
}

Result<int64_t> unix_time(const ASN1_TIME* time) {
  tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return fail_openssl("a time in the certificate cannot be read");
  return static_cast<int64_t>(timegm(&parts));
}

std::string hex_of(const ASN1_INTEGER* number) {
  std::unique_ptr<BIGNUM, OpensslFree<BN_free>> big(ASN1_INTEGER_to_BN(number, nullptr));
  char* text = big ? BN_bn2hex(big.get()) : nullptr;
  std::string out = text == nullptr ? "" : text;
  OPENSSL_free(text);
  return out;
}

Result<X509Ptr> first_certificate(const std::string& pem) {
  const BioPtr bio = bio_of(pem);
  X509Ptr certificate(PEM_read_bio_X509(bio.get(), nullptr, no_pass_phrase, nullptr));
  if (!certificate) return fail_openssl("no certificate in PEM");
  return certificate;
}

Status read_names(const X509& certificate, NodeCertificate& out) {
  NamesPtr names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> roles;
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) out.names.push_back(text_of(name->d.dNSName));
    if (name->type != GEN_URI) continue;
    const std::string uri = text_of(name->d.uniformResourceIdentifier);
    if (uri.starts_with(kRoleUri)) {
      roles.push_back(uri.substr(kRoleUri.size()));
      continue;
    }
    // What is ours and not understood would be no restriction at all.
    constexpr std::string_view kScheme = "mose:";
    const bool ours = uri.size() >= kScheme.size() && ::strncasecmp(uri.data(), kScheme.data(), kScheme.size()) == 0;
    if (ours) return fail("the certificate says \"" + uri + "\", which is no role: mose:role/source or mose:role/destination");
  }
  if (roles.empty()) return {};
  MOSE_ASSIGN(out.roles, parse_roles(roles));
  return {};
}

}  // namespace

std::string common_name(const X509_NAME* name) {
  const int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  return at < 0 ? std::string() : text_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
}

bool NodeCertificate::is_of(std::string_view node) const { return std::ranges::find(names, node) != names.end(); }

std::string NodeCertificate::whose() const {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out.empty() ? "no node" : out;
}

Status NodeCertificate::check_time(int64_t now_unix_s) const {
  if (now_unix_s > ends_unix_s) return fail("the certificate has expired on " + format_unix_time(ends_unix_s));
  if (now_unix_s < begins_unix_s) {
    return fail("the certificate is not valid before " + format_unix_time(begins_unix_s) + ": compare the clocks of both nodes");
  }
  return {};
}

Result<NodeCertificate> read_certificate(const X509& certificate) {
  NodeCertificate out;
  auto& writable = const_cast<X509&>(certificate);  // OpenSSL caches what it has parsed
  MOSE_TRY(read_names(certificate, out));
  out.authority = X509_check_ca(&writable) == 1;
  out.issuer = common_name(X509_get_issuer_name(&certificate));
  MOSE_ASSIGN(out.begins_unix_s, unix_time(X509_get0_notBefore(&certificate)));
  MOSE_ASSIGN(out.ends_unix_s, unix_time(X509_get0_notAfter(&certificate)));
  out.serial = hex_of(X509_get0_serialNumber(&certificate));
  return out;
}

Result<NodeCertificate> parse_certificate(const std::string& pem) {
  MOSE_ASSIGN(X509Ptr certificate, first_certificate(pem));
  return read_certificate(*certificate);
}

Result<bool> stands_in(const std::string& certificate_pem, const std::string& lists_pem) {
  MOSE_ASSIGN(X509Ptr certificate, first_certificate(certificate_pem));
  MOSE_ASSIGN(auto lists, read_lists(lists_pem, kListsMax));
  if (lists.empty()) return fail("it holds no list of revoked certificates in PEM (X509 CRL)");
  return std::ranges::any_of(lists, [&](const X509CrlPtr& list) {
    X509_REVOKED* entry = nullptr;
    return X509_NAME_cmp(X509_CRL_get_issuer(list.get()), X509_get_issuer_name(certificate.get())) == 0 &&
           X509_CRL_get0_by_cert(list.get(), &entry, certificate.get()) == 1;
  });
}

std::string format_unix_time(int64_t unix_s) {
  const time_t time = unix_s;
  tm parts{};
  gmtime_r(&time, &parts);
  char text[40];
  strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts);
  return text;
}

}  // namespace mose::move
