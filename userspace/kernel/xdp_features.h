// SPDX-License-Identifier: MIT
#pragma once

#include "base/result.h"

namespace mose {

// What the driver of a device says of itself (generic netlink family "netdev", Linux 6.3 and later). Only attaching a
// program proves it: ring sizes, the MTU or other offloads may still stand in the way.
struct XdpFeatures {
  bool native = false;    // runs programs in the driver, and sends out again what they return
  bool redirect = false;  // to other devices
  bool receives = false;  // takes frames that another device redirects to it
};
// In the caller's network namespace. An error with ENOENT: this kernel cannot tell.
[[nodiscard]] Result<XdpFeatures> xdp_features(unsigned ifindex);

}  // namespace mose
