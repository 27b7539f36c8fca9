// SPDX-License-Identifier: MIT
#pragma once

#include <optional>

#include "base/result.h"
#include "lab/names.h"

// Whether the link between the nodes is what was asked for, measured with packets of our own: what is reported of a
// move over a link says nothing when the link is another one.
namespace mose::lab {

struct LinkFigures {
  double rtt_ms = 0;                // median of small datagrams there and back, nothing else on the link
  std::optional<double> rate_mbit;  // of one TCP stream from a to b with all headers; absent: no rate was asked for
};

inline constexpr double kLinkErrorMax = 0.05;

// Takes about two seconds. The first datagrams, which ask for the address, are not counted.
[[nodiscard]] Result<LinkFigures> measure_link(const Names& names, bool with_rate);

// Largest relative error of the figures against what was asked for.
[[nodiscard]] double link_error(const LinkFigures& figures, std::optional<double> rate_mbit,
                                std::optional<double> rtt_ms);

}  // namespace mose::lab
