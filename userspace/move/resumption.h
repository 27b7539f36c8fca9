// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "move/openssl.h"

// A resumed connection shows no certificates: who the other end is was proven by an earlier one. What was believed then ends
// with the first certificate of the chain to end, the authority's among them; from then on the peer is asked anew, and
// what it shows is judged like anybody's.
namespace mose::move {

// Of a connection whose certificates have been verified just now: the earliest end of those in its chain, Unix time. 0: there
// is no chain, as after a resumption.
[[nodiscard]] int64_t believed_until(const SSL* ssl);

// Of the accepting end: its tickets carry that time along, and one beyond it leads to a full handshake.
[[nodiscard]] Status bound_tickets(SSL_CTX* context);

}  // namespace mose::move
