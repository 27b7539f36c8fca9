// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/node_roles.h"

typedef struct x509_st X509;
typedef struct X509_name_st X509_NAME;

namespace mose::move {

// How the certificate of a node names a role: a URI among its alternative names, "mose:role/source". Beside the node's
// name, because that is what every certificate authority passes through as asked for; many of them write the subject
// (organisationalUnit) as they like, and an extension of our own would need a registered number and tools that know it.
inline constexpr std::string_view kRoleUri = "mose:role/";

// What a certificate says of a node.
struct NodeCertificate {
  std::vector<std::string> names;  // DNS names, compared byte by byte: no wildcards
  NodeRoles roles;                 // both where it names none
  bool authority = false;          // may issue others
  std::string issuer;              // common name
  int64_t begins_unix_s = 0, ends_unix_s = 0;
  std::string serial;              // hex

  [[nodiscard]] bool is_of(std::string_view node) const;
  // Its names for a sentence, "no node" without one.
  [[nodiscard]] std::string whose() const;
  [[nodiscard]] Status check_time(int64_t now_unix_s) const;
};

// A role that is not known is an error: what somebody wanted to restrict must not silently be unrestricted.
[[nodiscard]] Result<NodeCertificate> read_certificate(const X509& certificate);
// The first certificate of a PEM text.
[[nodiscard]] Result<NodeCertificate> parse_certificate(const std::string& pem);
// Whether the first certificate of a PEM text stands in one of the lists (X.509, PEM) of another. Who has signed them is not looked at.
[[nodiscard]] Result<bool> stands_in(const std::string& certificate_pem, const std::string& lists_pem);
// Of an issuer or a subject; empty: it has none.
[[nodiscard]] std::string common_name(const X509_NAME* name);
// "2026-11-28 17:05:00 UTC"
[[nodiscard]] std::string format_unix_time(int64_t unix_s);

}  // namespace mose::move
