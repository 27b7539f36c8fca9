// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

namespace mose::handover {

// Device names have 15 characters and workload names more: "mv" (host end), "mi" or "me" (tap of held ingress or
// egress) and eight hex digits that follow from the workload's name.
[[nodiscard]] std::string device_name(std::string_view prefix, std::string_view workload);

}  // namespace mose::handover
