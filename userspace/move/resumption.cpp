// SPDX-License-Identifier: MIT
#include "move/resumption.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <limits>

#include "base/log.h"
#include "move/node_certificate.h"

namespace mose::move {
namespace {

// What OpenSSL calls before it makes a ticket. That of a resumed connection has its predecessor's time.
int note_end(SSL* ssl, void*) {
  const int64_t until = believed_until(ssl);
  if (until == 0) return 1;
  return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &until, sizeof until);
}

// Absent: a ticket that says nothing is worth nothing.
int64_t noted_end(SSL_SESSION* session) {
  void* data = nullptr;
  size_t size = 0;
  int64_t until = 0;
  if (SSL_SESSION_get0_ticket_appdata(session, &data, &size) != 1 || size != sizeof until) return 0;
  memcpy(&until, data, sizeof until);
  return until;
}

SSL_TICKET_RETURN judge_ticket(SSL*, SSL_SESSION* session, const unsigned char*, size_t, SSL_TICKET_STATUS status, void*) {
  if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW) return SSL_TICKET_RETURN_IGNORE_RENEW;
  const int64_t until = noted_end(session);
  if (std::time(nullptr) <= until) return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
  log::info("a peer is asked for its certificate anew: one that an earlier connection was believed by has ended",
            {{"ended", format_unix_time(until)}});
  return SSL_TICKET_RETURN_IGNORE_RENEW;
}

}  // namespace

int64_t believed_until(const SSL* ssl) {
  const STACK_OF(X509)* chain = SSL_get0_verified_chain(ssl);
  if (chain == nullptr || sk_X509_num(chain) == 0) return 0;
  int64_t until = std::numeric_limits<int64_t>::max();
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    auto read = read_certificate(*sk_X509_value(chain, i));
    if (!read) return 0;
    until = std::min(until, read->ends_unix_s);
  }
  return until;
}

Status bound_tickets(SSL_CTX* context) {
  if (SSL_CTX_set_session_ticket_cb(context, note_end, judge_ticket, nullptr) == 1) return {};
  return fail_openssl("TLS tickets");
}

}  // namespace mose::move
