// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/node_roles.h"

typedef struct x509_st X509;
typedef struct evp_pkey_st EVP_PKEY;

namespace mose::move {

// A certificate with its key, as texts in PEM.
struct IssuedCertificate {
  std::string certificate, key;
};

struct CertificateRequest {
  std::string node;
  NodeRoles roles;
  // Unix time. A little before now, so that clocks of nodes may differ.
  int64_t begins_unix_s = 0, ends_unix_s = 0;
};

// A certificate authority of one fleet: it signs the certificates of nodes and nothing else (ECDSA on P-256, no
// intermediates). Any other authority serves as well: a node needs three files (tls.h) with what node_certificate.h reads.
class Authority {
 public:
  // Lasts until then; `name` is for people. With this key (PEM), else a new one.
  [[nodiscard]] static Result<Authority> create(const std::string& name, int64_t begins_unix_s, int64_t ends_unix_s, const std::string* key_pem = nullptr);
  [[nodiscard]] static Result<Authority> load(const std::string& certificate_pem, const std::string& key_pem);
  Authority(Authority&&) noexcept;
  Authority& operator=(Authority&&) noexcept;
  ~Authority();

  // A new key and the certificate of a node. One that would outlast the authority is refused.
  [[nodiscard]] Result<IssuedCertificate> issue(const CertificateRequest& request) const;
  [[nodiscard]] Result<IssuedCertificate> own_pem() const;
  // A list of revoked certificates without an entry (PEM), which nodes can be given as tls.revoked from the start.
  [[nodiscard]] Result<std::string> new_list() const;
  // `list` with this certificate in it as well, signed anew. A certificate of another authority is refused, and so is what is
  // not one whole list of this authority: whoever stands in it must not be forgotten.
  [[nodiscard]] Result<std::string> revoke(const std::string& certificate_pem, const std::string& list) const;
  [[nodiscard]] Status check_list(const std::string& list) const;

 private:
  struct Parts;
  explicit Authority(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace mose::move
