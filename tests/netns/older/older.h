// SPDX-License-Identifier: MIT
#pragma once

#include <string>

// Pins as an older build of ours would have left them: its program at work, with maps of its own layout.
namespace mose::test {

// What is pinned of an uplink becomes that, with its entries; under traffic nothing is lost. What fails, fails the test.
void make_uplink_older(const std::string& bpffs, const std::string& device);

}  // namespace mose::test
