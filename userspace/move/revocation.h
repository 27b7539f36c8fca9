// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "move/openssl.h"

// Certificates that are not believed any more although they have not ended: lists of their serial numbers, signed by the
// authority that had issued them (X.509 CRLs).
namespace mose::move {

// What a context with such lists has OpenSSL call for each certificate of a chain: refuses who stands in them, and tells the session
// which certificate of the chain was refused, for whatever reason.
int judge_certificate(int accepted, X509_STORE_CTX* store);

// Takes a file with one or more lists in PEM. Of authorities without a list all certificates are believed, and a list holds until
// another takes its place, whatever it says of its next update: an old one is better than none. A list that is signed by none
// of `authorities` is ignored with a warning, so that one of them can be taken away whatever the order of the files.
[[nodiscard]] Status refuse_revoked(SSL_CTX* context, const std::string& path, const std::vector<X509Ptr>& authorities);

}  // namespace mose::move
