// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "base/result.h"

namespace mose {

// Whether the kernel leaves the checksums of packets to this device, in the caller's network namespace. A veth pair never
// completes them: what is redirected at XDP, where nobody remembers that they were left out, then arrives with wrong ones.
[[nodiscard]] Status set_checksum_offload(const std::string& device, bool on);

}  // namespace mose
