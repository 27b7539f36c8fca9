// SPDX-License-Identifier: MIT
#include "move/authority.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <array>
#include <ctime>

#include "move/node_certificate.h"
#include "move/openssl.h"
#include "move/pem.h"

namespace mose::move {
namespace {

constexpr int kVersion3 = 2;  // counted from 0
constexpr size_t kSerialBytes = 16;
constexpr int kListVersion2 = 1;  // the same

using RevokedPtr = std::unique_ptr<X509_REVOKED, OpensslFree<X509_REVOKED_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslFree<X509_EXTENSION_free>>;
using TimePtr = std::unique_ptr<ASN1_TIME, OpensslFree<ASN1_TIME_free>>;

Result<KeyPtr> new_key() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return fail_openssl("a key cannot be made");
  return key;
}

Result<KeyPtr> parse_key(const std::string& pem) {
  const BioPtr in = bio_of(pem);
  KeyPtr key(PEM_read_bio_PrivateKey(in.get(), nullptr, no_pass_phrase, nullptr));
  if (!key) return fail_openssl("the authority's key");
  return key;
}

Status set_times(X509* certificate, int64_t begins, int64_t ends) {
  if (ASN1_TIME_set(X509_getm_notBefore(certificate), begins) == nullptr || ASN1_TIME_set(X509_getm_notAfter(certificate), ends) == nullptr) {
    return fail_openssl("the certificate's times");
  }
  return {};
}

Status set_serial(X509* certificate) {
  std::array<unsigned char, kSerialBytes> bytes{};
  if (RAND_bytes(bytes.data(), bytes.size()) != 1) return fail_openssl("a serial number");
  bytes[0] &= 0x7f;  // positive
  std::unique_ptr<BIGNUM, OpensslFree<BN_free>> number(BN_bin2bn(bytes.data(), bytes.size(), nullptr));
  if (!number || BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) == nullptr) return fail_openssl("a serial number");
  return {};
}

Status set_subject(X509* certificate, const std::string& name) {
  X509_NAME* subject = X509_get_subject_name(certificate);
  const auto* bytes = reinterpret_cast<const unsigned char*>(name.data());
  if (X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, bytes, static_cast<int>(name.size()), -1, 0) != 1) {
    return fail_openssl("the name \"" + name + "\"");
  }
  return {};
}

struct Extension {
  int nid;
  std::string value;
};

Status add_extensions(X509* certificate, X509* issuer, std::initializer_list<Extension> extensions) {
  X509V3_CTX context{};
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  for (const Extension& extension : extensions) {
    const ExtensionPtr made(X509V3_EXT_conf_nid(nullptr, &context, extension.nid, extension.value.c_str()));
    if (!made || X509_add_ext(certificate, made.get(), -1) != 1) return fail_openssl("the extension \"" + extension.value + "\"");
  }
  return {};
}

// Its names go into a list that commas separate.
Status check_node_name(const std::string& node) {
  constexpr size_t kNameMax = 63;
  const bool odd = node.empty() || node.size() > kNameMax ||
                   node.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != std::string::npos;
  if (!odd) return {};
  return fail("\"" + node + "\" is not a node name: letters, digits, '-', '_' and '.', at most 63");
}

std::string alternative_names(const CertificateRequest& request) {
  std::string out = "DNS:" + request.node;
  for (const auto& [has, name] : {std::pair(request.roles.source, "source"), std::pair(request.roles.destination, "destination")}) {
    if (has) out += ",URI:" + std::string(kRoleUri) + name;
  }
  return out;
}

std::string text_in(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return size > 0 ? std::string(data, static_cast<size_t>(size)) : std::string();
}

Result<IssuedCertificate> to_pem(X509* certificate, EVP_PKEY* key) {
  BioPtr certificate_out(BIO_new(BIO_s_mem())), key_out(BIO_new(BIO_s_secmem()));
  if (!certificate_out || !key_out || PEM_write_bio_X509(certificate_out.get(), certificate) != 1 ||
      PEM_write_bio_PKCS8PrivateKey(key_out.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return fail_openssl("the certificate cannot be written");
  }
  return IssuedCertificate{text_in(certificate_out.get()), text_in(key_out.get())};
}

// Of a file whose place another list will take.
Result<X509CrlPtr> read_own_list(const std::string& pem, EVP_PKEY* key) {
  MOSE_ASSIGN(auto lists, read_lists(pem, kListsMax));
  if (lists.empty()) return fail("it holds no list of revoked certificates in PEM (X509 CRL), and another one would forget who has been revoked: put back what was there, a copy of a node's (tls.revoked)");
  if (lists.size() > 1) return fail("it holds more than one list of revoked certificates: revoke into a file with this authority's alone");
  if (X509_CRL_verify(lists.front().get(), key) == 1) return std::move(lists.front());
  ERR_clear_error();
  return fail("the list of revoked certificates is of another authority");
}

// One that is there already stays as it is.
Status add_revoked(X509_CRL* list, const ASN1_INTEGER* serial) {
  X509_REVOKED* there = nullptr;
  if (X509_CRL_get0_by_serial(list, &there, serial) == 1) return {};
  TimePtr now_time(ASN1_TIME_set(nullptr, std::time(nullptr)));
  RevokedPtr entry(X509_REVOKED_new());
  if (!now_time || !entry || X509_REVOKED_set_serialNumber(entry.get(), const_cast<ASN1_INTEGER*>(serial)) != 1 ||
      X509_REVOKED_set_revocationDate(entry.get(), now_time.get()) != 1 || X509_CRL_add0_revoked(list, entry.get()) != 1) {
    return fail_openssl("an entry of the list");
  }
  (void)entry.release();  // the list's
  return {};
}

// Which key has signed the list: authorities may be called alike (revocation.cpp).
Status name_key(X509_CRL* list, X509* issuer) {
  for (int at; (at = X509_CRL_get_ext_by_NID(list, NID_authority_key_identifier, -1)) >= 0;) X509_EXTENSION_free(X509_CRL_delete_ext(list, at));
  X509V3_CTX context{};
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, nullptr, nullptr, list, 0);
  const ExtensionPtr made(X509V3_EXT_conf_nid(nullptr, &context, NID_authority_key_identifier, "keyid"));
  if (!made || X509_CRL_add_ext(list, made.get(), -1) != 1) return fail_openssl("the key of the list's authority");
  return {};
}

// From now on, as long as the authority lasts.
Result<std::string> sign_list(X509_CRL* list, X509* issuer, EVP_PKEY* key) {
  TimePtr now_time(ASN1_TIME_set(nullptr, std::time(nullptr)));
  BioPtr out(BIO_new(BIO_s_mem()));
  MOSE_TRY(name_key(list, issuer));
  if (!now_time || !out || X509_CRL_set_version(list, kListVersion2) != 1 || X509_CRL_set_issuer_name(list, X509_get_subject_name(issuer)) != 1 ||
      X509_CRL_set1_lastUpdate(list, now_time.get()) != 1 || X509_CRL_set1_nextUpdate(list, X509_get0_notAfter(issuer)) != 1 ||
      X509_CRL_sort(list) != 1 || X509_CRL_sign(list, key, EVP_sha256()) == 0 || PEM_write_bio_X509_CRL(out.get(), list) != 1) {
    return fail_openssl("the list of revoked certificates cannot be signed");
  }
  return text_in(out.get());
}

}  // namespace

struct Authority::Parts {
  X509Ptr certificate;
  KeyPtr key;
};

Authority::Authority(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Authority::Authority(Authority&&) noexcept = default;
Authority& Authority::operator=(Authority&&) noexcept = default;
Authority::~Authority() = default;

Result<Authority> Authority::create(const std::string& name, int64_t begins, int64_t ends, const std::string* key_pem) {
  auto parts = std::make_unique<Parts>();
  MOSE_ASSIGN(parts->key, key_pem == nullptr ? new_key() : parse_key(*key_pem));
  parts->certificate.reset(X509_new());
  X509* certificate = parts->certificate.get();
  if (certificate == nullptr || X509_set_version(certificate, kVersion3) != 1) return fail_openssl("a certificate");
  MOSE_TRY(set_serial(certificate));
  MOSE_TRY(set_times(certificate, begins, ends));
  MOSE_TRY(set_subject(certificate, name));
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  X509_set_pubkey(certificate, parts->key.get());
  MOSE_TRY(add_extensions(certificate, certificate,
                          {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                           {NID_key_usage, "critical,keyCertSign,cRLSign"},
                           {NID_subject_key_identifier, "hash"}}));
  if (X509_sign(certificate, parts->key.get(), EVP_sha256()) == 0) return fail_openssl("the authority cannot be signed");
  return Authority(std::move(parts));
}

Result<Authority> Authority::load(const std::string& certificate_pem, const std::string& key_pem) {
  auto parts = std::make_unique<Parts>();
  BioPtr certificate = bio_of(certificate_pem);
  parts->certificate.reset(PEM_read_bio_X509(certificate.get(), nullptr, nullptr, nullptr));
  if (!parts->certificate) return fail_openssl("the authority's certificate");
  MOSE_ASSIGN(parts->key, parse_key(key_pem));
  if (X509_check_private_key(parts->certificate.get(), parts->key.get()) != 1) return fail_openssl("the authority's key");
  if (X509_check_ca(parts->certificate.get()) != 1) return fail("the certificate is not that of an authority");
  return Authority(std::move(parts));
}

Result<IssuedCertificate> Authority::issue(const CertificateRequest& request) const {
  MOSE_TRY(check_node_name(request.node));
  MOSE_ASSIGN(NodeCertificate own, read_certificate(*parts_->certificate));
  if (request.ends_unix_s > own.ends_unix_s) {
    return fail("the authority itself ends on " + format_unix_time(own.ends_unix_s) + ": fewer days, or a new authority");
  }
  MOSE_ASSIGN(KeyPtr key, new_key());
  X509Ptr made(X509_new());
  X509* certificate = made.get();
  if (certificate == nullptr || X509_set_version(certificate, kVersion3) != 1) return fail_openssl("a certificate");
  MOSE_TRY(set_serial(certificate));
  MOSE_TRY(set_times(certificate, request.begins_unix_s, request.ends_unix_s));
  MOSE_TRY(set_subject(certificate, request.node));
  X509_set_issuer_name(certificate, X509_get_subject_name(parts_->certificate.get()));
  X509_set_pubkey(certificate, key.get());
  MOSE_TRY(add_extensions(certificate, parts_->certificate.get(),
                          {{NID_basic_constraints, "critical,CA:FALSE"},
                           {NID_key_usage, "critical,digitalSignature"},
                           {NID_ext_key_usage, "serverAuth,clientAuth"},
                           {NID_subject_key_identifier, "hash"},
                           {NID_authority_key_identifier, "keyid"},
                           {NID_subject_alt_name, alternative_names(request)}}));
  if (X509_sign(certificate, parts_->key.get(), EVP_sha256()) == 0) return fail_openssl("the certificate cannot be signed");
  return to_pem(certificate, key.get());
}

Status Authority::check_list(const std::string& list) const {
  auto read = read_own_list(list, parts_->key.get());
  return read ? Status() : Status(std::unexpected(read.error()));
}

Result<std::string> Authority::new_list() const {
  X509CrlPtr list(X509_CRL_new());
  if (!list) return fail_openssl("the list of revoked certificates");
  return sign_list(list.get(), parts_->certificate.get(), parts_->key.get());
}

Result<std::string> Authority::revoke(const std::string& certificate_pem, const std::string& list) const {
  BioPtr from = bio_of(certificate_pem);
  X509Ptr certificate(PEM_read_bio_X509(from.get(), nullptr, nullptr, nullptr));
  if (!certificate) return fail_openssl("the certificate");
  if (X509_verify(certificate.get(), parts_->key.get()) != 1) {
    ERR_clear_error();
    return fail("the certificate is of another authority");
  }
  MOSE_ASSIGN(X509CrlPtr revoked, read_own_list(list, parts_->key.get()));
  MOSE_TRY(add_revoked(revoked.get(), X509_get0_serialNumber(certificate.get())));
  return sign_list(revoked.get(), parts_->certificate.get(), parts_->key.get());
}

Result<IssuedCertificate> Authority::own_pem() const { return to_pem(parts_->certificate.get(), parts_->key.get()); }

}  // namespace mose::move
